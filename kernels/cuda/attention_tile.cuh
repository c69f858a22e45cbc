// What one warp does with 16 query rows and a tile of 64 keys on mma.sync m16n8k16: the products of
// FlashAttention-2 (Dao 2023), scores in float16, values in bfloat16.
#pragma once

#include "kernels/cuda/attention_softmax.cuh"
#include "kernels/cuda/tensor_core.cuh"

namespace penstock::cuda {

constexpr int kWarpRows = 16;

/// A row of a tile in shared memory is 16 bytes longer than its data, so that the eight rows that one
/// ldmatrix reads lie in different banks.
template <int kDim>
constexpr int kTileStride = kDim + 8;

/// A running extent.
template <int kDim>
struct Partial {
  Softmax softmax;
  float acc[kDim / 8][4];

  __device__ void clear() {
    softmax.clear();
#pragma unroll
    for (int n = 0; n < kDim / 8; ++n)
      for (int j = 0; j < 4; ++j) acc[n][j] = 0;
  }
};

/// s = q k^T of one tile.
template <int kDim>
__device__ void score_tile(float (&s)[kTileKeys / 8][4], const uint32_t (&q)[kDim / 16][4],
                           const __half* k_shared, int lane) {
#pragma unroll
  for (int n = 0; n < kTileKeys / 8; ++n)
    for (int j = 0; j < 4; ++j) s[n][j] = 0;
  const __half* own = k_shared + (lane / 16 * 8 + lane % 8) * kTileStride<kDim> + lane / 8 % 2 * 8;
#pragma unroll
  for (int k = 0; k < kDim / 16; ++k) {
#pragma unroll
    for (int n = 0; n < kTileKeys / 16; ++n) {
      uint32_t b[4];
      load_matrices(b, own + n * 16 * kTileStride<kDim> + k * 16);
      multiply_add_f16(s[2 * n], q[k], b[0], b[1]);
      multiply_add_f16(s[2 * n + 1], q[k], b[2], b[3]);
    }
  }
}

/// acc += weights v of one tile.
template <int kDim>
__device__ void add_values(float (&acc)[kDim / 8][4], const float (&s)[kTileKeys / 8][4],
                           const __nv_bfloat16* v_shared, int lane) {
  const __nv_bfloat16* own = v_shared + (lane / 8 % 2 * 8 + lane % 8) * kTileStride<kDim> + lane / 16 * 8;
#pragma unroll
  for (int k = 0; k < kTileKeys / 16; ++k) {
    uint32_t p[4];
    pack_weights(p, s, k);
#pragma unroll
    for (int n = 0; n < kDim / 16; ++n) {
      uint32_t b[4];
      load_matrices_transposed(b, own + k * 16 * kTileStride<kDim> + n * 16);
      multiply_add_bf16(acc[2 * n], p, b[0], b[1]);
      multiply_add_bf16(acc[2 * n + 1], p, b[2], b[3]);
    }
  }
}

/// The extents folded so far. The sums of a lane stay in shared memory, kThreads apart: they are touched once
/// an extent, and registers are what limits how many warps a multiprocessor holds.
template <int kDim, int kThreads>
struct Total {
  static constexpr int kBytes = kDim / 2 * kThreads * static_cast<int>(sizeof(float));
  float* acc;  // this lane's first
  float base[2] = {kNothing, kNothing};
  float sum[2] = {0, 0};

  __device__ explicit Total(float* shared) : acc(shared + threadIdx.x) {
#pragma unroll
    for (int i = 0; i < kDim / 2; ++i) acc[i * kThreads] = 0;
  }
  __device__ float& at(int n, int j) const {
    return acc[(n * 4 + j) * kThreads];
  }

  __device__ void add(const Partial<kDim>& part, float scale_log2) {
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      if (part.softmax.base[r] == kNothing) continue;
      const Fold fold(base[r], part.softmax.base[r], scale_log2);
      base[r] = fold.base;
      sum[r] = fold(sum[r], part.softmax.sum[r]);
#pragma unroll
      for (int n = 0; n < kDim / 8; ++n)
#pragma unroll
        for (int j = 2 * r; j < 2 * r + 2; ++j) at(n, j) = fold(at(n, j), part.acc[n][j]);
    }
  }
};

}  // namespace penstock::cuda
