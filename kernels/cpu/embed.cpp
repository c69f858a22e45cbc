#include <cstring>

#include "kernels/cpu/number.h"
#include "kernels/cpu/rows.h"

namespace penstock::cpu {

void embed(const KernelTable& kernels, Team& team, const TensorView& x_TD, const int32_t* ids_T,
           const TensorView& table_VD) {
  const int64_t d = x_TD.dim(1);
  team.share(x_TD.dim(0), kRowsAtOnce, [&](int, int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; ++t) {
      float* to = x_TD.as<float>() + t * d;
      const int64_t from = ids_T[t] * d;
      if (table_VD.dtype == DType::bf16)
        kernels.widen(to, table_VD.as<const uint16_t>() + from, d);
      else if (table_VD.dtype == DType::f32)
        std::memcpy(to, table_VD.as<const float>() + from, static_cast<size_t>(d) * sizeof(float));
      else
        for (int64_t i = 0; i < d; ++i) to[i] = read(table_VD.data, table_VD.dtype, from + i);
    }
  });
}

void gather_rows(Team& team, const TensorView& y_RD, const TensorView& x_TD, const int32_t* rows_R) {
  const size_t row = static_cast<size_t>(y_RD.dim(1)) * bytes_of(y_RD.dtype);
  team.share(y_RD.dim(0), kRowsAtOnce, [&](int, int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r)
      std::memcpy(y_RD.as<char>() + static_cast<size_t>(r) * row,
                  x_TD.as<const char>() + static_cast<size_t>(rows_R[r]) * row, row);
  });
}

}  // namespace penstock::cpu
