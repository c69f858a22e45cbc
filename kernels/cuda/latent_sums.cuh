// What latent attention does with an extent's sums, the same for short and long rows: fold them into those of
// the extents before, write them as the part of a split row, or write the answer.
#pragma once

#include "kernels/cuda/latent_work.cuh"

namespace penstock::cuda {

/// The bases and weight sums of this lane's two query rows over the extents folded so far.
struct LatentTotal {
  float base[2] = {kNothing, kNothing};
  float sum[2] = {0, 0};

  /// Folds the next extent's in; the result says how its sums are to be. Every row sees something of its first
  /// extent; a later one of which it sees nothing is given the factor 0, and what was before it the factor 1.
  __device__ Fold add(const Softmax& extent, int r, float scale_log2) {
    const Fold fold(base[r], extent.base[r], scale_log2);
    base[r] = fold.base;
    sum[r] = fold(sum[r], extent.sum[r]);
    return fold;
  }
};

/// Writes columns first ... of one row, kTiles x 8 of them: what `value(n, j)` says of columns 8 n + j, j being
/// this lane's two.
template <int kTiles, class Value>
__device__ void write_latent_row(__nv_bfloat16* out, float sum, int lane, Value value) {
  const float inverse = 1.0F / sum;
#pragma unroll
  for (int n = 0; n < kTiles; ++n)
    *reinterpret_cast<__nv_bfloat162*>(out + n * 8 + lane % 4 * 2) =
        __floats2bfloat162_rn(value(n, 0) * inverse, value(n, 1) * inverse);
}

/// Writes the part of an extent, kTiles x 8 of its columns.
template <int kTiles>
__device__ void write_latent_part(const LatentProblem& p, int64_t part, int first_column, const Softmax& extent,
                                  const float (&acc)[kTiles][4], int r, int lane) {
  if (first_column == 0 && lane % 4 == 0) p.partial_base_sum[part] = {extent.base[r], extent.sum[r]};
  float* to = p.partial_acc + part * kLatentDim + first_column + lane % 4 * 2;
#pragma unroll
  for (int n = 0; n < kTiles; ++n)
    *reinterpret_cast<float2*>(to + n * 8) = {acc[n][2 * r], acc[n][2 * r + 1]};
}

}  // namespace penstock::cuda
