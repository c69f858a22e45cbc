// What latent attention does with an extent's sums, the same for short and long rows: fold them into those of
// the extents before, write them as the part of a split row, or write the answer.
#pragma once

#include "kernels/cuda/latent_work.cuh"

namespace penstock::cuda {

/// The bases and weight sums of this lane's two query rows over the extents folded so far.
struct LatentTotal {
  float base[2] = {kNothing, kNothing};
  float sum[2] = {0, 0};

  /// Folds the next extent's in; the result says how its sums are to be. Every row sees something of its
  /// first extent; a later one of which it sees nothing is given the factor 0, and what was before it the
  /// factor 1.
  __device__ Fold add(const Softmax& extent, int r, float scale_log2) {
    const Fold fold(base[r], extent.base[r], scale_log2);
    base[r] = fold.base;
    sum[r] = fold(sum[r], extent.sum[r]);
    return fold;
  }
};

/// Four lanes of neighbouring numbers hold a word each of four rows; then each has the four words of its row.
__device__ inline void transpose_quad(uint32_t (&x)[4], int lane) {
#pragma unroll
  for (int step = 1; step <= 2; ++step)
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      if ((i & step) != 0) continue;
      const bool upper = (lane & step) != 0;
      const uint32_t other = __shfl_xor_sync(kAllLanes, upper ? x[i] : x[i + step], step);
      (upper ? x[i] : x[i + step]) = other;
    }
}

/// Writes kTiles x 8 columns of a query row, if it is `real`: row r of this lane's two. By whole warps.
template <int kTiles>
__device__ void write_latent_row(__nv_bfloat16* out, bool real, const float (&acc)[kTiles][4], float sum,
                                 int r, int lane) {
  const float inverse = 1.0F / sum;
#pragma unroll
  for (int n = 0; n < kTiles; n += 4) {
    uint32_t words[4];
#pragma unroll
    for (int i = 0; i < 4; ++i) words[i] = pack(acc[n + i][2 * r] * inverse, acc[n + i][2 * r + 1] * inverse);
    transpose_quad(words, lane);
    if (real) *reinterpret_cast<uint4*>(out + (n + lane % 4) * 8) = {words[0], words[1], words[2], words[3]};
  }
}

/// Writes the part of an extent, kTiles x 8 of its columns.
template <int kTiles>
__device__ void write_latent_part(const LatentProblem& p, int64_t part, int first_column,
                                  const Softmax& extent, const float (&acc)[kTiles][4], int r, int lane) {
  if (first_column == 0 && lane % 4 == 0) p.partial_base_sum[part] = {extent.base[r], extent.sum[r]};
  float* to = p.partial_acc + part * kLatentDim + first_column + lane % 4 * 2;
#pragma unroll
  for (int n = 0; n < kTiles; ++n)
    *reinterpret_cast<float2*>(to + n * 8) = {acc[n][2 * r], acc[n][2 * r + 1]};
}

}  // namespace penstock::cuda
