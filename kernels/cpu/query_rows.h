// The query rows that one thread takes through the KV together, for both kinds of attention: brought into
// tiles, told extent by extent what they see, and divided by their weights' sum at the end. What they
// gathered lies here between. One thread at a time; memory grows in fit() and is kept.
#pragma once

#include <vector>

#include "kernels/cpu/kernel_table.h"
#include "kernels/ops.h"

namespace penstock::cpu {

/// Neighbouring tokens of one row, and the same neighbouring heads of each: all read the same K and V.
struct QueryUnit {
  int64_t row;
  int64_t first_token;
  int64_t tokens;
  int64_t first_head;
  int64_t heads;

  int rows() const { return static_cast<int>(tokens * heads); }
  /// How many positions the last token sees.
  int64_t seen(const BatchView& batch) const { return batch.positions_T[first_token + tokens - 1] + 1; }
};

class QueryRows {
 public:
  /// Room for units of up to `most_rows` rows, `dim` wide, that gather `value_dim` values.
  void fit(int64_t most_rows, int64_t dim, int64_t value_dim);
  /// The unit's rows of q_THd (f32 or bf16), which have seen nothing yet.
  Queries begin(const KernelTable& kernels, const TensorView& q_THd, int64_t heads, const QueryUnit& unit,
                float scale);
  /// What each row sees of the extent that begins at position `first`.
  void look_at(int64_t first, const BatchView& batch, const QueryUnit& unit);
  /// Into the unit's rows of out_THv (f32 or bf16).
  void finish(const KernelTable& kernels, const TensorView& out_THv, int64_t heads,
              const QueryUnit& unit) const;

 private:
  int64_t dim_ = 0;
  int64_t value_dim_ = 0;
  int64_t padded_ = 0;  // value_dim rounded up to 16
  std::vector<float> q_, scores_, factors_, largest_, sum_, out_, row_;
  std::vector<int32_t> visible_;
};

}  // namespace penstock::cpu
