// What keeping a vector of the KV cache in one byte a value took from it, looked at for some positions.
#pragma once

#include "kernels/cpu/kernel_table.h"
#include "kernels/ops.h"

namespace penstock::cpu {

/// One in eight, and not the first one, which many models treat as no other.
inline bool looks_at_rounding(int64_t position) {
  return position % 8 == 1;
}

/// `codes` with `scale` are what is kept of `values`; `room_n` is scratch for n floats.
inline void add_rounding(const ScaledFormat& format, const float* values, const uint8_t* codes, float scale,
                         int64_t n, float* room_n, CacheRounding& sum) {
  format.widen(room_n, codes, n, scale);
  for (int64_t i = 0; i < n; ++i) {
    const auto kept = static_cast<double>(values[i]);
    const double lost = kept - static_cast<double>(room_n[i]);
    sum.error += lost * lost;
    sum.kept += kept * kept;
  }
}

}  // namespace penstock::cpu
