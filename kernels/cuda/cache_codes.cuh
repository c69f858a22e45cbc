// A cache in one byte a value, FP8 E4M3 or int8 with a float scale for each vector
// (runtime/model/kv_cache.h): how a value becomes a code, and what tensor cores multiply for a code. Codes
// have the values of the CPU's; widening them is exact.
//
// Tensor cores take pairs of 16-bit values. Four codes that lie together become two pairs, codes 0 and 2, and
// codes 1 and 3: as many steps each as there are for one code. Whoever multiplies pairs up columns of the
// other operand in the same way (attention_tile.cuh).
#pragma once

#include <cuda_fp8.h>

#include "kernels/cuda/common.cuh"

namespace penstock::cuda {

/// Four bytes chosen by the digits of `which` out of those of `low` (0 to 3) and `high` (4 to 7); a digit + 8
/// stands for eight times that byte's first bit, which __byte_perm does not offer.
template <uint32_t which>
__device__ uint32_t pick_bytes(uint32_t low, uint32_t high) {
  uint32_t picked;
  asm("prmt.b32 %0, %1, %2, %3;" : "=r"(picked) : "r"(low), "r"(high), "n"(which));
  return picked;
}
__device__ inline uint32_t times(uint32_t pair, uint32_t by) {
  const __nv_bfloat162 product =
      __hmul2(reinterpret_cast<const __nv_bfloat162&>(pair), reinterpret_cast<const __nv_bfloat162&>(by));
  return reinterpret_cast<const uint32_t&>(product);
}

/// Codes are never NaN: where a value is, the scale is.
struct E4m3 {
  static constexpr float kLargest = 448;
  /// What is multiplied for a code is its value / kKeyUnit in K, / kValueUnit in V.
  static constexpr float kKeyUnit = 256;
  static constexpr float kValueUnit = 1;
  uint8_t bits;

  __device__ static uint8_t encode(float x) {
    return static_cast<uint8_t>(__nv_cvt_float_to_fp8(x, __NV_SATFINITE, __NV_E4M3));
  }
  __device__ static float decode(uint8_t code) {
    const auto half = static_cast<unsigned short>((code & 0x80U) << 8 | (code & 0x7FU) << 7);
    return __half2float(__ushort_as_half(half)) * kKeyUnit;
  }

  /// As float16: the sign filled up before the rest, which is moved into place. The exponents' biases are 8
  /// apart.
  __device__ static void widen_keys(uint32_t (&pairs)[2], uint32_t codes) {
    pairs[0] = pick_bytes<0xA280>(codes, 0) << 7 & 0xBF80BF80;
    pairs[1] = pick_bytes<0xB391>(codes, 0) << 7 & 0xBF80BF80;
  }
  /// As bfloat16, whose bias is 120 more: brought into range, as products with weights would leave it.
  __device__ static void widen_values(uint32_t (&pairs)[2], uint32_t codes) {
    constexpr uint32_t kTwoTo120 = 0x7B807B80;
    pairs[0] = times(pick_bytes<0xA280>(codes, 0) << 4 & 0x87F087F0, kTwoTo120);
    pairs[1] = times(pick_bytes<0xB391>(codes, 0) << 4 & 0x87F087F0, kTwoTo120);
  }
};

/// -127 ... 127, as sign and magnitude, which widen like floats.
struct Int8 {
  static constexpr float kLargest = 127;
  static constexpr float kKeyUnit = 0x1p24F;
  static constexpr float kValueUnit = 64;
  uint8_t bits;

  __device__ static uint8_t encode(float x) {
    const int code = __float2int_rn(x);
    return static_cast<uint8_t>(code < 0 ? 0x80 - code : code);
  }
  __device__ static float decode(uint8_t code) {
    const auto magnitude = static_cast<float>(code & 0x7F);
    return code < 0x80 ? magnitude : -magnitude;
  }

  /// As float16 subnormals, in units of 2^-24.
  __device__ static void widen_keys(uint32_t (&pairs)[2], uint32_t codes) {
    pairs[0] = pick_bytes<0xA280>(codes, 0) & 0x807F807F;
    pairs[1] = pick_bytes<0xB391>(codes, 0) & 0x807F807F;
  }
  /// As bfloat16 subnormals, in units of 2^-133, brought into range.
  __device__ static void widen_values(uint32_t (&pairs)[2], uint32_t codes) {
    constexpr uint32_t kTwoTo127 = 0x7F007F00;
    widen_keys(pairs, codes);
    for (uint32_t& pair : pairs) pair = times(pair, kTwoTo127);
  }
};

__device__ inline float widen(E4m3 code) {
  return E4m3::decode(code.bits);
}
__device__ inline float widen(Int8 code) {
  return Int8::decode(code.bits);
}

}  // namespace penstock::cuda
