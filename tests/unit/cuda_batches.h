// For tests of attention on GPUs: micro-batches of parts of sequences, in both places.
#pragma once

#include <algorithm>
#include <vector>

#include "tests/unit/cuda_fixtures.h"

namespace penstock::test {

/// A row of a micro-batch: so many new tokens behind so many that are stored.
struct RowPart {
  int64_t row;
  int64_t start;
  int64_t count;
};

class CudaBatches : public CudaTest {
 protected:
  static constexpr int64_t kRows = 24;

  /// Index arrays of one micro-batch, both places. Blocks of a row lie scattered over the cache.
  struct Batch {
    Twin positions, row_of, starts, context, table;
    BatchView host, gpu;
  };

  /// Of a cache of so many blocks, at least enough for kRows rows.
  Batch batch(const std::vector<RowPart>& parts, int64_t block_size, int64_t blocks) {
    std::vector<int32_t> positions, row_of, starts{0}, context, table;
    int64_t longest = 0;
    for (const RowPart& part : parts) longest = std::max(longest, part.start + part.count);
    const int64_t stride = (longest + block_size - 1) / block_size;
    for (const RowPart& part : parts) {
      for (int64_t i = 0; i < part.count; ++i) {
        positions.push_back(static_cast<int32_t>(part.start + i));
        row_of.push_back(static_cast<int32_t>(context.size()));
      }
      starts.push_back(static_cast<int32_t>(positions.size()));
      context.push_back(static_cast<int32_t>(part.start + part.count));
      for (int64_t b = 0; b < stride; ++b)
        table.push_back(static_cast<int32_t>(blocks - 1 - (b * kRows + part.row)));
    }
    Batch made{of(positions), of(row_of), of(starts), of(context), of(table), {}, {}};
    const auto view = [&](auto side) {
      const auto p = [&](const Twin& twin) { return (twin.*side).view.template as<const int32_t>(); };
      return BatchView{static_cast<int64_t>(positions.size()),
                       static_cast<int64_t>(parts.size()),
                       p(made.positions),
                       p(made.row_of),
                       p(made.starts),
                       p(made.context),
                       p(made.table),
                       stride,
                       longest};
    };
    made.host = view(&Twin::host);
    made.gpu = view(&Twin::gpu);
    return made;
  }
};

}  // namespace penstock::test
