// The paged cache of latents on GPUs: position after position, each its latent and its rotated key, and in a
// cache of one-byte elements the scales of the two behind them. So the codes of DeepSeek's sizes (512 and 64)
// begin at multiples of 8 bytes, what one chunk of a tile is widened from.
#pragma once

#include <cuda_fp8.h>

#include <cstring>

#include "kernels/cuda/common.cuh"
#include "kernels/ops.h"
#include "runtime/model/kv_cache.h"

namespace penstock::cuda {

/// Formats of a cache. In one of two-byte elements all are float16: the latent serves as K
/// (docs/architecture.md, "Numbers").
struct WideLatents {
  using Element = float;
  static constexpr bool kScaled = false;
  __device__ static float decode(float x) { return x; }
};
struct HalfLatents {
  using Element = __half;
  static constexpr bool kScaled = false;
  __device__ static float decode(__half x) { return __half2float(x); }
};
struct E4m3Latents {
  using Element = uint8_t;
  static constexpr bool kScaled = true;
  static constexpr float kLargest = 448;
  __device__ static uint8_t encode(float x) {
    return static_cast<uint8_t>(__nv_cvt_float_to_fp8(x, __NV_SATFINITE, __NV_E4M3));
  }
  __device__ static float decode(uint8_t code) {
    return __half2float(static_cast<__half>(__nv_cvt_fp8_to_halfraw(code, __NV_E4M3)));
  }
  /// Codes 2 i and 2 i + 1 of four.
  __device__ static float2 decode_pair(uint32_t codes, int i) {
    return __half22float2(static_cast<__half2>(
        __nv_cvt_fp8x2_to_halfraw2(static_cast<__nv_fp8x2_storage_t>(codes >> 16 * i), __NV_E4M3)));
  }
};
struct Int8Latents {
  using Element = uint8_t;
  static constexpr bool kScaled = true;
  static constexpr float kLargest = 127;
  __device__ static uint8_t encode(float x) { return static_cast<uint8_t>(__float2int_rn(x)); }
  __device__ static float decode(uint8_t code) { return static_cast<float>(static_cast<int8_t>(code)); }
  /// A code + 128 is put where the fraction of 2^23 ends: faster than the instruction that converts.
  __device__ static float2 decode_pair(uint32_t codes, int i) {
    constexpr uint32_t kTwoTo23 = 0x4B000000;
    constexpr float kOffset = 8388608.0F + 128.0F;
    const uint32_t shifted = codes ^ 0x80808080;
    return {__uint_as_float(__byte_perm(shifted, kTwoTo23, 0x7440U + 2 * i)) - kOffset,
            __uint_as_float(__byte_perm(shifted, kTwoTo23, 0x7441U + 2 * i)) - kOffset};
  }
};

/// Calls f(F()) with F the format of a cache of this dtype.
template <class F>
void with_latent_format(DType dtype, F f) {
  switch (dtype) {
    case DType::bf16:
      return f(HalfLatents());
    case DType::e4m3:
      return f(E4m3Latents());
    case DType::i8:
      return f(Int8Latents());
    default:
      return f(WideLatents());
  }
}

struct LatentCache {
  char* data;
  int latent_dim;
  int rope_dim;
  int block_size;
  int position_bytes;

  explicit LatentCache(const LatentCacheView& cache)
      : data(static_cast<char*>(cache.data)),
        latent_dim(static_cast<int>(cache.latent_dim)),
        rope_dim(static_cast<int>(cache.rope_dim)),
        block_size(static_cast<int>(cache.block_size)),
        position_bytes(
            static_cast<int>(latent_position_bytes(cache.latent_dim, cache.rope_dim, cache.dtype))) {}

  /// Which of all positions that the cache has room for.
  __device__ int64_t index(const BatchView& batch, int64_t row, int position) const {
    const int64_t block = batch.block_table_RB[row * batch.table_stride + position / block_size];
    return block * block_size + position % block_size;
  }
  __device__ char* at(int64_t index) const { return data + index * position_bytes; }
  /// Of a position: 0 the latent's, 1 the key's. Sizes that nobody publishes leave it at odd addresses.
  __device__ void* scale(char* position, int which) const {
    return position + latent_dim + rope_dim + which * static_cast<int>(sizeof(float));
  }
};

__device__ inline float read_scale(const void* from) {
  float scale = 0;
  memcpy(&scale, from, sizeof scale);
  return scale;
}

}  // namespace penstock::cuda
