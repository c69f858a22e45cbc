// FP8 rows as floats, for back ends that hold such weights in another format.
#pragma once

#include <vector>

#include "kernels/ops.h"
#include "runtime/model/fp8.h"

namespace penstock::cpu {

/// Rows and scales as Ops::load_fp8_rows takes them.
inline std::vector<float> dequantized(const TensorView& rows_rK, const TensorView& scales_rB) {
  const int64_t k = rows_rK.dim(1);
  const int64_t blocks = scales_rB.dim(1);
  std::vector<float> values(static_cast<size_t>(rows_rK.shape.elements()));
  for (int64_t r = 0; r < rows_rK.dim(0); ++r)
    for (int64_t i = 0; i < k; ++i)
      values[static_cast<size_t>(r * k + i)] = f32_from_e4m3(rows_rK.as<const uint8_t>()[r * k + i]) *
                                               scales_rB.as<const float>()[r * blocks + i / kFp8Columns];
  return values;
}

}  // namespace penstock::cpu
