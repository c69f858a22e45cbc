// FP8 E4M3 (no infinities; 0x7F and 0xFF are NaN; Micikevicius et al. 2022) and weights kept in it with one
// scale for each block, as DeepSeek-V3 is published: weight = value x weight_scale_inv[row / 128, column /
// 128].
#pragma once

#include <cmath>
#include <cstdint>
#include <span>
#include <vector>

namespace penstock {

/// The largest finite value.
constexpr float kLargestE4m3 = 448.0F;

inline float f32_from_e4m3(uint8_t bits) {
  const int exponent = (bits >> 3) & 0xF;
  const int fraction = bits & 7;
  const float sign = (bits & 0x80) != 0 ? -1.0F : 1.0F;
  if ((bits & 0x7F) == 0x7F) return std::nanf("");
  if (exponent == 0) return sign * std::ldexp(static_cast<float>(fraction), -9);
  return sign * std::ldexp(static_cast<float>(8 + fraction), exponent - 10);
}
/// To nearest, ties to even; what lies beyond the largest value becomes it; NaN stays NaN.
uint8_t e4m3_from_f32(float value);

/// quantization_config of a checkpoint in FP8: how many rows and columns share a scale.
struct Fp8Blocks {
  int64_t rows = 128;
  int64_t columns = 128;
  bool operator==(const Fp8Blocks&) const = default;
};

struct Fp8Weight {
  std::vector<uint8_t> values;  // rows x columns
  std::vector<float> scales;    // blocks of rows x blocks of columns
};
/// Each block's largest magnitude becomes 448. `weight` is rows x columns, row-major.
Fp8Weight quantize_blocks(std::span<const float> weight, int64_t rows, int64_t columns, Fp8Blocks blocks);

constexpr int64_t blocks_over(int64_t size, int64_t block) {
  return (size + block - 1) / block;
}

}  // namespace penstock
