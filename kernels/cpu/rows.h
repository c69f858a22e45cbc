// Operations that treat each row by itself, shared over a team of threads. Callers have checked the shapes.
#pragma once

#include <vector>

#include "kernels/cpu/contract.h"
#include "kernels/cpu/kernel_table.h"
#include "kernels/cpu/team.h"

namespace penstock::cpu {

/// Of a cache of one-byte elements.
inline const ScaledFormat& scaled_format(const KernelTable& kernels, DType kv_dtype) {
  return kv_dtype == DType::e4m3 ? kernels.e4m3 : kernels.int8;
}

constexpr int64_t kRowsAtOnce = 4;  // a thread takes at least so many of the short rows

void embed(const KernelTable& kernels, Team& team, const TensorView& x_TD, const int32_t* ids_T,
           const TensorView& table_VD);
void rms_norm(const KernelTable& kernels, Team& team, const TensorView& y_TD, const TensorView& x_TD,
              const TensorView& weight_D, float eps);
void swiglu(const KernelTable& kernels, Team& team, const TensorView& y_TF, const TensorView& gate_up_T2F);
void gather_rows(Team& team, const TensorView& y_RD, const TensorView& x_TD, const int32_t* rows_R);
/// `scratch` has an entry a thread and grows to what is needed; so has `rounding`, to which is added what a
/// cache of one-byte elements loses.
void rope_and_store(const KernelTable& kernels, Team& team, std::vector<std::vector<float>>& scratch,
                    std::vector<CacheRounding>& rounding, const HeadShape& shape, const TensorView& q_THd,
                    const KvCacheView& cache, const TensorView& qkv_TN, const RotaryView& rotary,
                    const BatchView& batch);
/// `scratch` and `rounding` as above.
void latent_rope_and_store(const KernelTable& kernels, Team& team, std::vector<std::vector<float>>& scratch,
                           std::vector<CacheRounding>& rounding, const LatentShape& shape,
                           const TensorView& q_THd, const TensorView& plain_THn, const LatentCacheView& cache,
                           const TensorView& q_THe, const TensorView& latent_TL,
                           const LatentRotaryView& rotary, const BatchView& batch);

}  // namespace penstock::cpu
