// Paged attention for prefill, chunks and decode, one code path: see attention_tile.h for the arithmetic.
// Driven by the thread that owns the Ops.
#pragma once

#include <vector>

#include "kernels/cpu/kernel_table.h"
#include "kernels/cpu/kv_layout.h"
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
  /// What one thread does at a time: neighbouring tokens of one row, one KV head.
  struct Unit {
    int64_t row;
    int64_t first_token;
    int64_t tokens;
    int64_t kv_head;
  };
  /// Memory of one thread for one unit.
  struct Scratch {
    std::vector<float> q, scores, factors, largest, sum, out, row;
    std::vector<int32_t> visible;
    std::vector<uint32_t>
        tiles;  // where the cache is not tiled: copies of an extent's four K tiles, then of V's

    void fit(size_t rows, size_t dim, size_t padded, size_t copied_words);
  };
  void plan_units(const Call& call);
  void attend_unit(const Call& call, const Unit& unit, const Unit& next, Scratch& scratch) const;

  const KernelTable& kernels_;
  Team& team_;
  std::vector<Unit> units_;
  std::vector<Scratch> scratch_;  // one a thread
};

}  // namespace penstock::cpu
