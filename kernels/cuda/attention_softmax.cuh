// Attention's arithmetic that no instruction set changes: the softmax of a tile of 64 keys and the fold of
// one extent into what came before it. Every query row, prefill or decode, goes through these functions in
// the same order of tiles and extents; that is why its bits do not depend on the company.
//
// Fragments, of mma.sync and wgmma alike: lane l holds rows l / 4 and l / 4 + 8 of 16, and columns 2 (l % 4)
// and 2 (l % 4) + 1 of every 8.
#pragma once

#include "kernels/cuda/common.cuh"

namespace penstock::cuda {

constexpr int kTileKeys = 64;
constexpr int kTilesPerExtent = 4;
constexpr int kExtentKeys = kTileKeys * kTilesPerExtent;
constexpr float kNothing = -INFINITY;

__device__ inline float exp2_fast(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

__device__ inline uint32_t pack(float low, float high) {
  const __nv_bfloat162 both = __floats2bfloat162_rn(low, high);
  return reinterpret_cast<const uint32_t&>(both);
}

/// Weights of values in bfloat16.
struct BfloatWeights {
  /// Whether a score is so much larger than the base that it becomes the base.
  __device__ static bool outgrows(float score, float base, float) { return score > base; }
  __device__ static uint32_t pack(float low, float high) { return cuda::pack(low, high); }
  /// Both become what they are rounded to.
  __device__ static void round(float& low, float& high) {
    const uint32_t rounded = pack(low, high);
    low = __uint_as_float(rounded << 16);
    high = __uint_as_float(rounded & 0xFFFF0000);
  }
};
/// Weights of values in float16.
struct HalfWeights {
  /// Weights up to 256 are as exact as those up to 1, and while a base stays nothing must be multiplied.
  __device__ static bool outgrows(float score, float base, float scale_log2) {
    return (score - base) * scale_log2 > 8;
  }
  __device__ static uint32_t pack(float low, float high) {
    const __half2 both = __floats2half2_rn(low, high);
    return reinterpret_cast<const uint32_t&>(both);
  }
  __device__ static void round(float& low, float& high) {
    const __half2 rounded = __floats2half2_rn(low, high);
    low = __low2float(rounded);
    high = __high2float(rounded);
  }
};

/// The fragment of weights of keys 16 k ... 16 k + 15.
template <class Weights = BfloatWeights>
__device__ void pack_weights(uint32_t (&p)[4], const float (&s)[kTileKeys / 8][4], int k) {
  p[0] = Weights::pack(s[2 * k][0], s[2 * k][1]);
  p[1] = Weights::pack(s[2 * k][2], s[2 * k][3]);
  p[2] = Weights::pack(s[2 * k + 1][0], s[2 * k + 1][1]);
  p[3] = Weights::pack(s[2 * k + 1][2], s[2 * k + 1][3]);
}

/// Softmax over some keys, unnormalised, of this lane's two rows: weights and their sum are relative to
/// exp2(base * scale), with base about the largest score so far (Milakov and Gimelshein 2018). Weights are
/// rounded to what values are multiplied by before they are summed: what rounding does to a weight that
/// outweighs the others then cancels.
struct Softmax {
  float base[2];  // in units of raw scores
  float sum[2];   // until close(): of this lane's columns

  __device__ void clear() {
    for (int r = 0; r < 2; ++r) {
      base[r] = kNothing;
      sum[r] = 0;
    }
  }

  /// s, raw scores, becomes the weights of this tile. Row r sees the keys of the tile below visible[r]; keys
  /// that a row does not see change nothing of it, to the last bit. What the rows of this warp have summed up
  /// so far must be multiplied by shrink if this returns true; if not, shrink is 1.
  template <class Weights = BfloatWeights>
  __device__ bool weigh(float (&s)[kTileKeys / 8][4], const int (&visible)[2], float scale_log2, int lane,
                        float (&shrink)[2]) {
    if (__any_sync(kAllLanes, min(visible[0], visible[1]) < kTileKeys)) {
#pragma unroll
      for (int n = 0; n < kTileKeys / 8; ++n)
#pragma unroll
        for (int j = 0; j < 4; ++j)
          if (n * 8 + lane % 4 * 2 + j % 2 >= visible[j / 2]) s[n][j] = kNothing;
    }
    bool moved = false;
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      float largest = kNothing;
#pragma unroll
      for (int n = 0; n < kTileKeys / 8; ++n) largest = fmaxf(largest, fmaxf(s[n][2 * r], s[n][2 * r + 1]));
      largest = fmaxf(largest, __shfl_xor_sync(kAllLanes, largest, 1));
      largest = fmaxf(largest, __shfl_xor_sync(kAllLanes, largest, 2));
      shrink[r] = 1;
      if (Weights::outgrows(largest, base[r], scale_log2)) {
        shrink[r] = exp2_fast((base[r] - largest) * scale_log2);
        base[r] = largest;
        moved = true;
      }
      const float subtract = base[r] == kNothing ? 0 : base[r] * scale_log2;
      float own = 0;
#pragma unroll
      for (int n = 0; n < kTileKeys / 8; ++n) {
        float& low = s[n][2 * r];
        float& high = s[n][2 * r + 1];
        low = exp2_fast(fmaf(low, scale_log2, -subtract));
        high = exp2_fast(fmaf(high, scale_log2, -subtract));
        Weights::round(low, high);
        own += low;
        own += high;
      }
      sum[r] = fmaf(sum[r], shrink[r], own);
    }
    return __any_sync(kAllLanes, moved);
  }

  /// Ends an extent: the sums are those of whole rows from here on.
  __device__ void close() {
    for (int r = 0; r < 2; ++r) {
      sum[r] += __shfl_xor_sync(kAllLanes, sum[r], 1);
      sum[r] += __shfl_xor_sync(kAllLanes, sum[r], 2);
    }
  }
};

/// Of a cache with a scale for each key: scores of codes become scores of keys, weights of values those of
/// codes, `unit` being what a code is multiplied in.
__device__ inline void multiply_columns(float (&s)[kTileKeys / 8][4], const float* scales, float unit,
                                        int lane) {
#pragma unroll
  for (int n = 0; n < kTileKeys / 8; ++n) {
    const float2 by = *reinterpret_cast<const float2*>(scales + n * 8 + lane % 4 * 2);
#pragma unroll
    for (int j = 0; j < 4; ++j) s[n][j] *= (j % 2 == 0 ? by.x : by.y) * unit;
  }
}

template <int kDim>
__device__ void multiply_rows(float (&acc)[kDim / 8][4], const float (&by)[2]) {
#pragma unroll
  for (int n = 0; n < kDim / 8; ++n)
#pragma unroll
    for (int j = 0; j < 4; ++j) acc[n][j] *= by[j / 2];
}

/// How an extent is folded into the extents before it: both are scaled to the larger base.
struct Fold {
  float keep;  // factor of what was
  float take;  // factor of the extent
  float base;

  /// Bases as in Softmax; that of the extent is a number, that of nothing before it is kNothing.
  __device__ Fold(float before, float extent, float scale_log2) : base(fmaxf(before, extent)) {
    keep = exp2_fast((before - base) * scale_log2);
    take = exp2_fast((extent - base) * scale_log2);
  }
  __device__ float operator()(float before, float extent) const { return fmaf(extent, take, before * keep); }
};

/// The extents folded so far, of kDim columns.
template <int kDim>
struct WholeRows {
  float base[2] = {kNothing, kNothing};
  float sum[2] = {0, 0};
  float acc[kDim / 8][4] = {};

  __device__ void add(Softmax extent, const float (&extent_acc)[kDim / 8][4], float scale_log2) {
    extent.close();
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      if (extent.base[r] == kNothing) continue;
      const Fold fold(base[r], extent.base[r], scale_log2);
      base[r] = fold.base;
      sum[r] = fold(sum[r], extent.sum[r]);
#pragma unroll
      for (int n = 0; n < kDim / 8; ++n)
#pragma unroll
        for (int j = 2 * r; j < 2 * r + 2; ++j) acc[n][j] = fold(acc[n][j], extent_acc[n][j]);
    }
  }
};

}  // namespace penstock::cuda
