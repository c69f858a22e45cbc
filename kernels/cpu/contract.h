// What callers owe each operation, checked in one place for every CPU back end. A breach is a fault of ours,
// not of the user: it throws Error "internal error: ..." naming the operation, the thing expected and the
// thing found.
#pragma once

#include "kernels/ops.h"

namespace penstock::cpu {

struct MatmulShape {
  int64_t m, n, k;
};
MatmulShape check_matmul(const TensorView& y_TN, const TensorView& x_TK, const Matrix& w_NK,
                         DType weight_dtype, const TensorView& bias_N);

/// Heads of a micro-batch's attention.
struct HeadShape {
  int64_t heads;     // H
  int64_t kv_heads;  // G
  int64_t dim;       // d
};
HeadShape check_rope(const TensorView& q_THd, const KvCacheView& cache, const TensorView& qkv_TN,
                     const RotaryView& rotary, const BatchView& batch);
HeadShape check_attention(const TensorView& out_THd, const TensorView& q_THd, const KvCacheView& cache,
                          const BatchView& batch);

/// Heads of a micro-batch's latent attention.
struct LatentShape {
  int64_t heads;   // H
  int64_t plain;   // n
  int64_t latent;  // L
  int64_t rope;    // r
};
LatentShape check_latent_rope(const TensorView& q_THd, const TensorView& plain_THn,
                              const LatentCacheView& cache, const TensorView& q_THe,
                              const TensorView& latent_TL, const LatentRotaryView& rotary,
                              const BatchView& batch);
LatentShape check_latent_attention(const TensorView& out_THL, const TensorView& q_THd,
                                   const LatentCacheView& cache, const BatchView& batch);

struct HeadMatmulShape {
  int64_t m, n, k, y_width;
};
HeadMatmulShape check_matmul_by_head(const TensorView& y_THy, const TensorView& x_THK,
                                     std::span<const Matrix* const> w_HNK, DType weight_dtype);
void check_route(const RoutingView& routing, const TensorView& logits_TE, const GateView& gate);
void check_matmul_by_expert(const TensorView& y_SN, const TensorView& x_SK,
                            std::span<const Matrix* const> w_ENK, const RoutingView& routing);
/// Those that have a pair have a weight. `expert_start_E1` must be host memory.
void check_chosen_experts(std::span<const Matrix* const> w_ENK, const RoutingView& routing);
void check_combine_experts(const TensorView& x_TD, const TensorView& y_SD, const RoutingView& routing);

void check_load_rows(const Matrix& w, int64_t first_row, const TensorView& rows_rK);
void check_load_fp8_rows(const Matrix& w, int64_t first_row, const TensorView& rows_rK,
                         const TensorView& scales_rB);
void check_embed(const TensorView& x_TD, const TensorView& table_VD);
void check_rms_norm(const TensorView& y_TD, const TensorView& x_TD, const TensorView& weight_D);
void check_swiglu(const TensorView& y_TF, const TensorView& gate_up_T2F);
void check_gather_rows(const TensorView& y_RD, const TensorView& x_TD);
void check_sample(const TensorView& logits_RV, size_t params);

}  // namespace penstock::cpu
