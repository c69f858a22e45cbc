// Conversions between float32 and the 16-bit formats, one value at a time: what the plain reference, the
// weight loader and the portable kernels share. Rounding is to nearest even.
#pragma once

#include <bit>
#include <cmath>
#include <cstdint>

#include "runtime/device/tensor.h"

namespace penstock::cpu {

inline float widen_bf16(uint16_t bits) {
  return std::bit_cast<float>(static_cast<uint32_t>(bits) << 16);
}

inline uint16_t round_to_bf16(float value) {
  const auto bits = std::bit_cast<uint32_t>(value);
  if ((bits & 0x7FFFFFFF) > 0x7F800000) return static_cast<uint16_t>((bits >> 16) | 0x40);  // NaN stays NaN
  return static_cast<uint16_t>((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16);
}

inline float widen_f16(uint16_t bits) {
  const uint32_t sign = static_cast<uint32_t>(bits & 0x8000) << 16;
  const uint32_t exponent = (bits >> 10) & 0x1F;
  const uint32_t fraction = bits & 0x3FF;
  if (exponent == 0x1F) return std::bit_cast<float>(sign | 0x7F800000 | (fraction << 13));
  if (exponent != 0) return std::bit_cast<float>(sign | ((exponent + 112) << 23) | (fraction << 13));
  const float magnitude = static_cast<float>(fraction) * 0x1p-24F;  // subnormal or zero
  return std::bit_cast<float>(std::bit_cast<uint32_t>(magnitude) | sign);
}

/// What float16 cannot hold becomes its largest number; NaN stays NaN.
inline uint16_t round_to_f16(float value) {
  const auto bits = std::bit_cast<uint32_t>(value);
  const auto sign = static_cast<uint16_t>((bits >> 16) & 0x8000);
  const uint32_t magnitude = bits & 0x7FFFFFFF;
  if (magnitude > 0x7F800000) return static_cast<uint16_t>(sign | 0x7E00);
  if (magnitude > 0x477FE000) return static_cast<uint16_t>(sign | 0x7BFF);
  if (magnitude < 0x38800000)  // subnormal: in units of 2^-24
    return static_cast<uint16_t>(
        sign | static_cast<uint16_t>(std::lrint(std::bit_cast<float>(magnitude) * 0x1p24F)));
  return static_cast<uint16_t>(sign | ((magnitude - 0x38000000 + 0xFFF + ((magnitude >> 13) & 1)) >> 13));
}

/// Element `i` of an array of `dtype` (f32, bf16 or f16).
inline float read(const void* data, DType dtype, int64_t i) {
  switch (dtype) {
    case DType::bf16:
      return widen_bf16(static_cast<const uint16_t*>(data)[i]);
    case DType::f16:
      return widen_f16(static_cast<const uint16_t*>(data)[i]);
    default:
      return static_cast<const float*>(data)[i];
  }
}

/// Stores into element `i` of an array of `dtype` (f32, bf16 or f16).
inline void write(void* data, DType dtype, int64_t i, float value) {
  if (dtype == DType::bf16)
    static_cast<uint16_t*>(data)[i] = round_to_bf16(value);
  else if (dtype == DType::f16)
    static_cast<uint16_t*>(data)[i] = round_to_f16(value);
  else
    static_cast<float*>(data)[i] = value;
}

}  // namespace penstock::cpu
