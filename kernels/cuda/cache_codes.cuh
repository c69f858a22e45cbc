// A cache in one byte a value, FP8 E4M3 or int8 with a float scale for each vector
// (runtime/model/kv_cache.h): how a value becomes a code, and what tensor cores multiply for a code. Codes
// are what the CPU stores for the same values; widening them is exact.
//
// Tensor cores take pairs of 16-bit values. Four codes that lie together become two pairs, codes 0 and 2, and
// codes 1 and 3: a shift and a mask each, where neighbours would need bytes to be moved. Whoever multiplies
// pairs up columns of the other operand in the same way (attention_tile.cuh).
#pragma once

#include <cuda_fp8.h>

#include "kernels/cuda/common.cuh"

namespace penstock::cuda {

/// a | b of two masked words, as three-input operations.
__device__ inline uint32_t join_bits(uint32_t a, uint32_t mask_a, uint32_t b, uint32_t mask_b) {
  return (a & mask_a) | (b & mask_b);
}
__device__ inline uint32_t times(uint32_t pair, uint32_t by) {
  const __nv_bfloat162 product =
      __hmul2(reinterpret_cast<const __nv_bfloat162&>(pair), reinterpret_cast<const __nv_bfloat162&>(by));
  return reinterpret_cast<const uint32_t&>(product);
}

/// Codes are never NaN: where a value is, the scale is.
struct E4m3 {
  static constexpr float kLargest = 448;
  /// What is multiplied for a key's code is its value / kKeyUnit.
  static constexpr float kKeyUnit = 256;
  uint8_t bits;

  __device__ static uint8_t encode(float x) {
    return static_cast<uint8_t>(__nv_cvt_float_to_fp8(x, __NV_SATFINITE, __NV_E4M3));
  }
  __device__ static float decode(uint8_t code) {
    const auto half = static_cast<unsigned short>((code & 0x80U) << 8 | (code & 0x7FU) << 7);
    return __half2float(__ushort_as_half(half)) * kKeyUnit;
  }

  /// As float16: sign, exponent and fraction in their places. The exponents' biases are 8 apart.
  __device__ static void widen_keys(uint32_t (&pairs)[2], uint32_t codes) {
    pairs[0] = join_bits(codes << 8, 0x80008000, codes << 7, 0x3F803F80);
    pairs[1] = join_bits(codes, 0x80008000, codes >> 1, 0x3F803F80);
  }
  /// As bfloat16, whose bias is 120 more: brought into range, as products with weights would leave it.
  __device__ static void widen_values(uint32_t (&pairs)[2], uint32_t codes) {
    constexpr uint32_t kTwoTo120 = 0x7B807B80;
    pairs[0] = times(join_bits(codes << 8, 0x80008000, codes << 4, 0x07F007F0), kTwoTo120);
    pairs[1] = times(join_bits(codes, 0x80008000, codes >> 4, 0x07F007F0), kTwoTo120);
  }
};

/// -127 ... 127.
struct Int8 {
  static constexpr float kLargest = 127;
  static constexpr float kKeyUnit = 1;
  uint8_t bits;

  __device__ static uint8_t encode(float x) { return static_cast<uint8_t>(__float2int_rn(x)); }
  __device__ static float decode(uint8_t code) { return static_cast<float>(static_cast<int8_t>(code)); }

  /// As float16: code + 128 is the end of the fraction of 1024 + code + 128.
  __device__ static void widen_keys(uint32_t (&pairs)[2], uint32_t codes) {
    pairs[0] = less_1152((codes & 0x00FF00FF) ^ 0x64806480);
    pairs[1] = less_1152((codes >> 8 & 0x00FF00FF) ^ 0x64806480);
  }
  /// As bfloat16, whose fraction has 7 bits: those of 128 + the code's last 7, less 128, or 256 where the
  /// code is negative.
  __device__ static void widen_values(uint32_t (&pairs)[2], uint32_t codes) {
    pairs[0] = small_value(codes);
    pairs[1] = small_value(codes >> 8);
  }

 private:
  __device__ static uint32_t less_1152(uint32_t pair) {
    constexpr uint32_t k1152 = 0x64806480;
    const __half2 difference =
        __hsub2(reinterpret_cast<const __half2&>(pair), reinterpret_cast<const __half2&>(k1152));
    return reinterpret_cast<const uint32_t&>(difference);
  }
  __device__ static uint32_t small_value(uint32_t codes) {
    const uint32_t above = (codes & 0x007F007F) | 0x43004300;  // 128 + the last 7 bits
    const uint32_t less = (codes & 0x00800080) | 0xC300C300;   // -128 or -256
    const __nv_bfloat162 sum = __hadd2(reinterpret_cast<const __nv_bfloat162&>(above),
                                       reinterpret_cast<const __nv_bfloat162&>(less));
    return reinterpret_cast<const uint32_t&>(sum);
  }
};

__device__ inline float widen(E4m3 code) {
  return E4m3::decode(code.bits);
}
__device__ inline float widen(Int8 code) {
  return Int8::decode(code.bits);
}

}  // namespace penstock::cuda
