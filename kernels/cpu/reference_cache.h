// How the plain reference keeps a vector of the KV cache: its scale, where the format has one, then its
// elements, one behind the other.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <span>
#include <vector>

#include "kernels/cpu/number.h"
#include "runtime/model/fp8.h"
#include "runtime/model/kv_cache.h"

namespace penstock::cpu {

/// With scales: the largest magnitude becomes the largest code, 448 or 127; ties to even.
inline void write_vector(char* to, DType dtype, std::span<const float> values) {
  if (!has_scales(dtype)) {
    for (size_t i = 0; i < values.size(); ++i) write(to, dtype, static_cast<int64_t>(i), values[i]);
    return;
  }
  float largest = 0;
  for (const float v : values) largest = std::isnan(v) || std::abs(v) > largest ? std::abs(v) : largest;
  const float scale =
      std::max(largest / (dtype == DType::e4m3 ? kLargestE4m3 : 127.0F), std::numeric_limits<float>::min());
  std::memcpy(to, &scale, sizeof scale);
  auto* codes = reinterpret_cast<uint8_t*>(to) + sizeof scale;
  for (size_t i = 0; i < values.size(); ++i) {
    const float code = values[i] / scale;
    codes[i] = dtype == DType::e4m3 ? e4m3_from_f32(code) : static_cast<uint8_t>(std::lrint(code));
  }
}

inline std::vector<double> read_vector(const char* from, DType dtype, int64_t count) {
  std::vector<double> values(static_cast<size_t>(count));
  if (!has_scales(dtype)) {
    for (int64_t i = 0; i < count; ++i)
      values[static_cast<size_t>(i)] = static_cast<double>(read(from, dtype, i));
    return values;
  }
  float scale = 0;
  std::memcpy(&scale, from, sizeof scale);
  const auto* codes = reinterpret_cast<const uint8_t*>(from) + sizeof scale;
  for (size_t i = 0; i < values.size(); ++i) {
    const float code =
        dtype == DType::e4m3 ? f32_from_e4m3(codes[i]) : static_cast<float>(static_cast<int8_t>(codes[i]));
    values[i] = static_cast<double>(code) * static_cast<double>(scale);
  }
  return values;
}

}  // namespace penstock::cpu
