#include "kernels/cpu/query_rows.h"

#include <algorithm>
#include <limits>

namespace penstock::cpu {
namespace {

/// Which of all T x H heads row `row` of the unit is.
int64_t head_at(const QueryUnit& unit, int64_t heads, int64_t row) {
  return (unit.first_token + row / unit.heads) * heads + unit.first_head + row % unit.heads;
}

}  // namespace

void QueryRows::fit(int64_t most_rows, int64_t dim, int64_t value_dim) {
  dim_ = dim;
  value_dim_ = value_dim;
  padded_ = (value_dim + 15) / 16 * 16;
  const auto grow = [](auto& v, int64_t n) {
    if (v.size() < static_cast<size_t>(n)) v.resize(static_cast<size_t>(n));
  };
  grow(scores_, most_rows * kExtent);
  for (auto* v : {&factors_, &largest_, &sum_}) grow(*v, most_rows);
  grow(visible_, most_rows);
  grow(q_, most_rows * dim);
  grow(out_, most_rows * padded_);
  grow(row_, dim);
}

Queries QueryRows::begin(const KernelTable& kernels, const TensorView& q_THd, int64_t heads,
                         const QueryUnit& unit, float scale) {
  const int rows = unit.rows();
  const int64_t tiles = tiles_for(rows, kQueryRows);
  for (int64_t t = 0; t < tiles; ++t) {
    const int64_t first = tile_start(rows, tiles, t);
    const int64_t m = tile_start(rows, tiles, t + 1) - first;
    for (int64_t row = 0; row < m; ++row) {
      const int64_t at = head_at(unit, heads, first + row) * dim_;
      const float* q_d = row_.data();
      if (q_THd.dtype == DType::bf16)
        kernels.widen(row_.data(), q_THd.as<const uint16_t>() + at, dim_);
      else
        q_d = q_THd.as<const float>() + at;
      float* to = q_.data() + first * dim_ + row;
      for (int64_t i = 0; i < dim_; ++i) to[i * m] = q_d[i];
    }
  }
  std::fill_n(largest_.begin(), rows, -std::numeric_limits<float>::infinity());
  std::fill_n(sum_.begin(), rows, 0.0F);
  std::fill_n(out_.begin(), rows * padded_, 0.0F);
  return {rows,
          dim_,
          value_dim_,
          padded_,
          scale,
          q_.data(),
          visible_.data(),
          scores_.data(),
          factors_.data(),
          largest_.data(),
          sum_.data(),
          out_.data()};
}

void QueryRows::look_at(int64_t first, const BatchView& batch, const QueryUnit& unit) {
  auto visible = visible_.begin();
  for (int64_t t = unit.first_token; t < unit.first_token + unit.tokens; ++t, visible += unit.heads) {
    const int64_t seen = batch.positions_T[t] + 1 - first;
    std::fill_n(visible, unit.heads, static_cast<int32_t>(std::clamp<int64_t>(seen, 0, kExtent)));
  }
}

void QueryRows::finish(const KernelTable& kernels, const TensorView& out_THv, int64_t heads,
                       const QueryUnit& unit) const {
  for (int row = 0; row < unit.rows(); ++row) {
    const float* out = out_.data() + row * padded_;
    const float sum = sum_[static_cast<size_t>(row)];
    const int64_t to = head_at(unit, heads, row) * value_dim_;
    if (out_THv.dtype == DType::bf16)
      kernels.finish_query_bf16(out_THv.as<uint16_t>() + to, out, sum, value_dim_);
    else
      kernels.finish_query_f32(out_THv.as<float>() + to, out, sum, value_dim_);
  }
}

}  // namespace penstock::cpu
