// Numbers on the host, from one float format to another. bfloat16 and float16 travel as their bits.
#pragma once

#include <bit>
#include <cmath>
#include <cstdint>

#include "runtime/device/tensor.h"

namespace penstock {

inline float f32_from_bf16(uint16_t bits) {
  return std::bit_cast<float>(static_cast<uint32_t>(bits) << 16);
}

/// To nearest, ties to even; NaN stays NaN.
inline uint16_t bf16_from_f32(float value) {
  const auto bits = std::bit_cast<uint32_t>(value);
  if (std::isnan(value)) return static_cast<uint16_t>((bits >> 16) | 0x40U);
  return static_cast<uint16_t>((bits + 0x7FFFU + ((bits >> 16) & 1U)) >> 16);
}

float f32_from_f16(uint16_t bits);

/// Copies `from` (f32, bf16 or f16) into memory for as many elements of `to_dtype` (f32 or bf16), rounding to
/// nearest even. Both on the host.
void convert(void* to, DType to_dtype, const TensorView& from);

}  // namespace penstock
