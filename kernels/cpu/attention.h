// Paged attention for prefill, chunks and decode, one code path: see attention_tile.h for the arithmetic.
// Driven by the thread that owns the Ops.
#pragma once

#include <vector>

#include "kernels/cpu/kernel_table.h"
#include "kernels/cpu/kv_layout.h"
#include "kernels/cpu/query_rows.h"
#include "kernels/cpu/team.h"
#include "kernels/ops.h"

namespace penstock::cpu {

class Attention {
 public:
  Attention(const KernelTable& kernels, Team& team);
  void operator()(const TensorView& out_THd, const TensorView& q_THd, const KvCacheView& cache,
                  const BatchView& batch, float scale);

 private:
  struct Call;
  /// Memory of one thread for one unit: tokens of one row and the heads of one KV head.
  struct Scratch {
    QueryRows rows;
    std::vector<uint32_t>
        tiles;  // where the cache is not tiled: copies of an extent's four K tiles, then of V's
  };
  void plan_units(const Call& call);
  void attend_unit(const Call& call, const QueryUnit& unit, const QueryUnit& next, Scratch& scratch) const;

  const KernelTable& kernels_;
  Team& team_;
  std::vector<QueryUnit> units_;
  std::vector<Scratch> scratch_;  // one a thread
};

}  // namespace penstock::cpu
