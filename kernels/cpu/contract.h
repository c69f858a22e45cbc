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

void check_load_rows(const Matrix& w, int64_t first_row, const TensorView& rows_rK);
void check_embed(const TensorView& x_TD, const TensorView& table_VD);
void check_rms_norm(const TensorView& y_TD, const TensorView& x_TD, const TensorView& weight_D);
void check_swiglu(const TensorView& y_TF, const TensorView& gate_up_T2F);
void check_gather_rows(const TensorView& y_RD, const TensorView& x_TD);
void check_sample(const TensorView& logits_RV, size_t params);

}  // namespace penstock::cpu
