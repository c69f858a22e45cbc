#include "runtime/model/fp8.h"

#include <algorithm>
#include <bit>

#include "runtime/base/error.h"

namespace penstock {

uint8_t e4m3_from_f32(float value) {
  const auto bits = std::bit_cast<uint32_t>(value);
  const auto sign = static_cast<uint8_t>((bits >> 24) & 0x80);
  const float magnitude = std::fabs(value);
  if (std::isnan(value)) return sign | 0x7F;
  if (magnitude >= kLargestE4m3) return sign | 0x7E;
  if (magnitude < 0x1p-6F)  // subnormal: in units of 2^-9; 8 of them are the least normal number
    return static_cast<uint8_t>(sign | static_cast<uint8_t>(std::lrint(magnitude * 0x1p9F)));
  const uint32_t rounded = (bits & 0x7FFFFFFF) + 0x7FFFF + ((bits >> 20) & 1);
  const uint32_t code = (rounded >> 20) - ((127 - 7) << 3);
  return static_cast<uint8_t>(sign | std::min<uint32_t>(code, 0x7E));
}

Fp8Weight quantize_blocks(std::span<const float> weight, int64_t rows, int64_t columns, Fp8Blocks blocks) {
  ensure(static_cast<int64_t>(weight.size()) == rows * columns, "a weight has rows x columns elements");
  const int64_t across = blocks_over(columns, blocks.columns);
  Fp8Weight out;
  out.values.resize(weight.size());
  out.scales.assign(static_cast<size_t>(blocks_over(rows, blocks.rows) * across), 0.0F);
  const auto scale_at = [&](int64_t r, int64_t c) -> float& {
    return out.scales[static_cast<size_t>(r / blocks.rows * across + c / blocks.columns)];
  };
  const auto at = [&](int64_t r, int64_t c) { return static_cast<size_t>(r * columns + c); };
  for (int64_t r = 0; r < rows; ++r)
    for (int64_t c = 0; c < columns; ++c)
      scale_at(r, c) = std::max(scale_at(r, c), std::fabs(weight[at(r, c)]));
  for (float& s : out.scales) s = s > 0 ? s / kLargestE4m3 : 1.0F;
  for (int64_t r = 0; r < rows; ++r)
    for (int64_t c = 0; c < columns; ++c)
      out.values[at(r, c)] = e4m3_from_f32(weight[at(r, c)] / scale_at(r, c));
  return out;
}

}  // namespace penstock
