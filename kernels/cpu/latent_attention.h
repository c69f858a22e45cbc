// Attention over cached latents, one code path for prefill, chunks and decode: the inner loops of
// attention_tile.h on one KV head whose V is the leading part of its K. Driven by the thread that owns the
// Ops.
#pragma once

#include <vector>

#include "kernels/cpu/kernel_table.h"
#include "kernels/cpu/latent_layout.h"
#include "kernels/cpu/query_rows.h"
#include "kernels/cpu/team.h"
#include "kernels/ops.h"

namespace penstock::cpu {

class LatentAttention {
 public:
  LatentAttention(const KernelTable& kernels, Team& team);
  void operator()(const TensorView& out_THL, const TensorView& q_THd, const LatentCacheView& cache,
                  const BatchView& batch, float scale);

 private:
  struct Call;
  /// Memory of one thread for one unit: tokens of one row, some of their heads; an extent's positions as
  /// floats, once in rows and once in K tiles.
  struct Scratch {
    QueryRows rows;
    std::vector<float> positions, keys;
  };
  void plan_units(const Call& call);
  void load_extent(const Call& call, int64_t row, int64_t first, int64_t end, Scratch& scratch) const;
  void attend_unit(const Call& call, const QueryUnit& unit, Scratch& scratch) const;

  const KernelTable& kernels_;
  Team& team_;
  std::vector<QueryUnit> units_;
  std::vector<Scratch> scratch_;  // one a thread
};

}  // namespace penstock::cpu
