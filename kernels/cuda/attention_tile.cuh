// What one warp does with 16 query rows and a tile of 64 keys on mma.sync m16n8k16: the products of
// FlashAttention-2 (Dao 2023), scores in float16, values in bfloat16.
//
// Tiles of one-byte codes are loaded as if two codes were one 16-bit value, and widened in registers. A lane
// then holds four neighbours of 16 columns where it would hold two twice: pairs of every other one, codes 0
// and 2, 1 and 3. For K these are the columns that a product sums over, and queries are paired alike
// (load_queries); for V they are columns of the result, and what is written is put in order (write_columns).
#pragma once

#include <type_traits>

#include "kernels/cuda/attention_softmax.cuh"
#include "kernels/cuda/cache_types.cuh"
#include "kernels/cuda/tensor_core.cuh"

namespace penstock::cuda {

constexpr int kWarpRows = 16;

/// A tile of K or V in shared memory: rows of keys, then their scales where the cache has any. A row is 16
/// bytes longer than its data, so that the eight rows that one ldmatrix reads lie in different banks.
template <class Cache, int kDim>
struct Tile {
  using Element = std::conditional_t<Cache::kScaled, uint8_t, uint16_t>;
  static constexpr int kPerChunk = 16 / static_cast<int>(sizeof(Element));  // of 16 bytes
  static constexpr int kStride = kDim + kPerChunk;
  static constexpr int kElements = kTileKeys * kStride;
  static constexpr int kBytes = kElements * static_cast<int>(sizeof(Element)) +
                                (Cache::kScaled ? kTileKeys * static_cast<int>(sizeof(float)) : 0);

  __device__ static const float* scales(const unsigned char* tile) {
    return reinterpret_cast<const float*>(tile + kElements);
  }
};

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

/// s = q k^T of one tile of float16.
template <int kDim>
__device__ void score_words(float (&s)[kTileKeys / 8][4], const uint32_t (&q)[kDim / 16][4],
                            const unsigned char* tile, int lane) {
  constexpr int kStride = Tile<NarrowCache, kDim>::kStride;
  const uint16_t* own =
      reinterpret_cast<const uint16_t*>(tile) + (lane / 16 * 8 + lane % 8) * kStride + lane / 8 % 2 * 8;
#pragma unroll
  for (int k = 0; k < kDim / 16; ++k) {
#pragma unroll
    for (int n = 0; n < kTileKeys / 16; ++n) {
      uint32_t b[4];
      load_matrices(b, own + n * 16 * kStride + k * 16);
      multiply_add_f16(s[2 * n], q[k], b[0], b[1]);
      multiply_add_f16(s[2 * n + 1], q[k], b[2], b[3]);
    }
  }
}

/// The same of one tile of codes. One load takes 16 columns of 32 keys.
template <class Code, int kDim>
__device__ void score_codes(float (&s)[kTileKeys / 8][4], const uint32_t (&q)[kDim / 16][4],
                            const unsigned char* tile, int lane) {
  constexpr int kStride = Tile<CodeCache<Code>, kDim>::kStride;
  const unsigned char* own = tile + lane * kStride;
#pragma unroll
  for (int k = 0; k < kDim / 16; ++k) {
#pragma unroll
    for (int half = 0; half < kTileKeys / kWarp; ++half) {
      uint32_t codes[4];
      load_matrices(codes, own + half * kWarp * kStride + k * 16);
#pragma unroll
      for (int n = 0; n < 4; ++n) {
        uint32_t b[2];
        Code::widen_keys(b, codes[n]);
        multiply_add_f16(s[4 * half + n], q[k], b[0], b[1]);
      }
    }
  }
}

/// s = q k^T of one tile.
template <class Cache, int kDim>
__device__ void score_tile(float (&s)[kTileKeys / 8][4], const uint32_t (&q)[kDim / 16][4],
                           const unsigned char* tile, int lane) {
#pragma unroll
  for (int n = 0; n < kTileKeys / 8; ++n)
    for (int j = 0; j < 4; ++j) s[n][j] = 0;
  if constexpr (Cache::kScaled) {
    score_codes<typename Cache::Key, kDim>(s, q, tile, lane);
    multiply_columns(s, Tile<Cache, kDim>::scales(tile), lane);
  } else {
    score_words<kDim>(s, q, tile, lane);
  }
}

/// acc += weights v of one tile of codes. One load takes 16 columns of 32 keys, two products' worth.
template <class Code, int kDim>
__device__ void add_codes(float (&acc)[kDim / 8][4], const float (&s)[kTileKeys / 8][4],
                          const unsigned char* tile, int lane) {
  constexpr int kStride = Tile<CodeCache<Code>, kDim>::kStride;
  const unsigned char* own = tile + lane * kStride;
#pragma unroll
  for (int half = 0; half < kTileKeys / kWarp; ++half) {
    uint32_t p[2][4];
    pack_weights(p[0], s, 2 * half);
    pack_weights(p[1], s, 2 * half + 1);
#pragma unroll
    for (int n = 0; n < kDim / 16; ++n) {
      uint32_t codes[4];
      load_matrices_transposed(codes, own + half * kWarp * kStride + n * 16);
#pragma unroll
      for (int k = 0; k < 2; ++k) {
        uint32_t low[2], high[2];
        Code::widen_values(low, codes[2 * k]);
        Code::widen_values(high, codes[2 * k + 1]);
        multiply_add_bf16(acc[2 * n], p[k], low[0], high[0]);
        multiply_add_bf16(acc[2 * n + 1], p[k], low[1], high[1]);
      }
    }
  }
}

/// acc += weights v of one tile of bfloat16.
template <int kDim>
__device__ void add_words(float (&acc)[kDim / 8][4], const float (&s)[kTileKeys / 8][4],
                          const unsigned char* tile, int lane) {
  constexpr int kStride = Tile<NarrowCache, kDim>::kStride;
  const uint16_t* own =
      reinterpret_cast<const uint16_t*>(tile) + (lane / 8 % 2 * 8 + lane % 8) * kStride + lane / 16 * 8;
#pragma unroll
  for (int k = 0; k < kTileKeys / 16; ++k) {
    uint32_t p[4];
    pack_weights(p, s, k);
#pragma unroll
    for (int n = 0; n < kDim / 16; ++n) {
      uint32_t b[4];
      load_matrices_transposed(b, own + k * 16 * kStride + n * 16);
      multiply_add_bf16(acc[2 * n], p, b[0], b[1]);
      multiply_add_bf16(acc[2 * n + 1], p, b[2], b[3]);
    }
  }
}

/// acc += weights v of one tile; s, the weights, is spent.
template <class Cache, int kDim>
__device__ void add_values(float (&acc)[kDim / 8][4], float (&s)[kTileKeys / 8][4], const unsigned char* tile,
                           int lane) {
  if constexpr (Cache::kScaled) {
    multiply_columns(s, Tile<Cache, kDim>::scales(tile), lane);
    add_codes<typename Cache::Value, kDim>(acc, s, tile, lane);
  } else {
    add_words<kDim>(acc, s, tile, lane);
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
