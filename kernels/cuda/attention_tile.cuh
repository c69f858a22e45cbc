// What one warp does with 16 query rows and a tile of 64 keys: the tile step of FlashAttention-2 (Dao 2023)
// on mma.sync m16n8k16, and the fold of one extent into what came before it. Every query row, prefill or
// decode, goes through these functions in the same order of tiles and extents; that is why its bits do not
// depend on the company.
//
// Fragments: lane l holds rows l / 4 and l / 4 + 8 of 16, and columns 2 (l % 4) and 2 (l % 4) + 1 of every 8.
#pragma once

#include "kernels/cuda/tensor_core.cuh"

namespace penstock::cuda {

constexpr int kTileKeys = 64;
constexpr int kTilesPerExtent = 4;
constexpr int kExtentKeys = kTileKeys * kTilesPerExtent;
constexpr int kWarpRows = 16;
constexpr float kNothing = -INFINITY;

/// A row of a tile in shared memory is 16 bytes longer than its data, so that the eight rows that one
/// ldmatrix reads lie in different banks.
template <int kDim>
constexpr int kTileStride = kDim + 8;

__device__ inline float exp2_fast(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

__device__ inline uint32_t pack(float low, float high) {
  const __nv_bfloat162 both = __floats2bfloat162_rn(low, high);
  return reinterpret_cast<const uint32_t&>(both);
}

/// Softmax over some keys, unnormalised, of rows l / 4 and l / 4 + 8: sum and acc are relative to exp2(max).
template <int kDim>
struct Partial {
  float max[2];
  float sum[2];
  float acc[kDim / 8][4];

  __device__ void clear() {
    for (int r = 0; r < 2; ++r) {
      max[r] = kNothing;
      sum[r] = 0;
    }
#pragma unroll
    for (int n = 0; n < kDim / 8; ++n)
      for (int j = 0; j < 4; ++j) acc[n][j] = 0;
  }
};

/// s = q k^T of one tile.
template <int kDim>
__device__ void score_tile(float (&s)[kTileKeys / 8][4], const uint32_t (&q)[kDim / 16][4],
                           const __nv_bfloat16* k_shared, int lane) {
#pragma unroll
  for (int n = 0; n < kTileKeys / 8; ++n)
    for (int j = 0; j < 4; ++j) s[n][j] = 0;
  const __nv_bfloat16* own = k_shared + (lane / 16 * 8 + lane % 8) * kTileStride<kDim> + lane / 8 % 2 * 8;
#pragma unroll
  for (int k = 0; k < kDim / 16; ++k) {
#pragma unroll
    for (int n = 0; n < kTileKeys / 16; ++n) {
      uint32_t b[4];
      load_matrices(b, own + n * 16 * kTileStride<kDim> + k * 16);
      multiply_add(s[2 * n], q[k], b[0], b[1]);
      multiply_add(s[2 * n + 1], q[k], b[2], b[3]);
    }
  }
}

/// Online softmax (Milakov and Gimelshein 2018): s becomes the weights of this tile. Row r sees the keys of
/// the tile below visible[r]; keys that a row does not see change nothing of it, to the last bit.
template <int kDim>
__device__ void weigh_tile(float (&s)[kTileKeys / 8][4], Partial<kDim>& part, const int (&visible)[2],
                           float scale_log2, int lane) {
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    float largest = part.max[r];
#pragma unroll
    for (int n = 0; n < kTileKeys / 8; ++n)
#pragma unroll
      for (int j = 0; j < 2; ++j) {
        float& score = s[n][2 * r + j];
        score = n * 8 + lane % 4 * 2 + j < visible[r] ? score * scale_log2 : kNothing;
        largest = fmaxf(largest, score);
      }
    largest = fmaxf(largest, __shfl_xor_sync(kAllLanes, largest, 1));
    largest = fmaxf(largest, __shfl_xor_sync(kAllLanes, largest, 2));
    const float base = largest == kNothing ? 0 : largest;
    const float shrink = exp2_fast(part.max[r] - base);
    part.max[r] = largest;
    float sum = 0;
#pragma unroll
    for (int n = 0; n < kTileKeys / 8; ++n)
#pragma unroll
      for (int j = 0; j < 2; ++j) {
        s[n][2 * r + j] = exp2_fast(s[n][2 * r + j] - base);
        sum += s[n][2 * r + j];
      }
    part.sum[r] = fmaf(part.sum[r], shrink, sum);
#pragma unroll
    for (int n = 0; n < kDim / 8; ++n) {
      part.acc[n][2 * r] *= shrink;
      part.acc[n][2 * r + 1] *= shrink;
    }
  }
}

/// acc += weights v of one tile.
template <int kDim>
__device__ void add_values(Partial<kDim>& part, const float (&s)[kTileKeys / 8][4],
                           const __nv_bfloat16* v_shared, int lane) {
  const __nv_bfloat16* own = v_shared + (lane / 8 % 2 * 8 + lane % 8) * kTileStride<kDim> + lane / 16 * 8;
#pragma unroll
  for (int k = 0; k < kTileKeys / 16; ++k) {
    const uint32_t p[4] = {pack(s[2 * k][0], s[2 * k][1]), pack(s[2 * k][2], s[2 * k][3]),
                           pack(s[2 * k + 1][0], s[2 * k + 1][1]), pack(s[2 * k + 1][2], s[2 * k + 1][3])};
#pragma unroll
    for (int n = 0; n < kDim / 16; ++n) {
      uint32_t b[4];
      load_matrices_transposed(b, own + k * 16 * kTileStride<kDim> + n * 16);
      multiply_add(part.acc[2 * n], p, b[0], b[1]);
      multiply_add(part.acc[2 * n + 1], p, b[2], b[3]);
    }
  }
}

/// How an extent is folded into the extents before it: both are scaled to the larger maximum.
struct Fold {
  float keep;  // factor of what was
  float take;  // factor of the extent
  float max;

  __device__ Fold(float before, float extent) : max(fmaxf(before, extent)) {
    keep = exp2_fast(before - max);
    take = exp2_fast(extent - max);
  }
  __device__ float operator()(float before, float extent) const { return fmaf(extent, take, before * keep); }
};

/// Completes the sums of an extent: until here each lane has added up its own columns only.
template <int kDim>
__device__ void close_extent(Partial<kDim>& part) {
  for (int r = 0; r < 2; ++r) {
    part.sum[r] += __shfl_xor_sync(kAllLanes, part.sum[r], 1);
    part.sum[r] += __shfl_xor_sync(kAllLanes, part.sum[r], 2);
  }
}

/// The extents folded so far. The sums of a lane stay in shared memory, kThreads apart: they are touched once
/// an extent, and registers are what limits how many warps a multiprocessor holds.
template <int kDim, int kThreads>
struct Total {
  static constexpr int kBytes = kDim / 2 * kThreads * static_cast<int>(sizeof(float));
  float* acc;  // this lane's first
  float max[2] = {kNothing, kNothing};
  float sum[2] = {0, 0};

  __device__ explicit Total(float* shared) : acc(shared + threadIdx.x) {
#pragma unroll
    for (int i = 0; i < kDim / 2; ++i) acc[i * kThreads] = 0;
  }
  __device__ float& at(int n, int j) const {
    return acc[(n * 4 + j) * kThreads];
  }

  __device__ void add(const Partial<kDim>& part) {
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      if (part.max[r] == kNothing) continue;
      const Fold fold(max[r], part.max[r]);
      max[r] = fold.max;
      sum[r] = fold(sum[r], part.sum[r]);
#pragma unroll
      for (int n = 0; n < kDim / 8; ++n)
#pragma unroll
        for (int j = 2 * r; j < 2 * r + 2; ++j) at(n, j) = fold(at(n, j), part.acc[n][j]);
    }
  }
};

}  // namespace penstock::cuda
