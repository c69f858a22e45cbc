// One rank's share of the decoder, as the runner sees it. Implemented in stages/; driven by one thread.
#pragma once

#include <cstdint>
#include <vector>

#include "kernels/ops.h"
#include "proto/plan.pb.h"

namespace penstock {

/// What the routed experts of a stage take and did so far.
struct ExpertUse {
  uint64_t experts = 0;     ///< of all its layers
  uint64_t held = 0;        ///< of which the weights are in memory: all, or those that a row was routed to
  uint64_t bytes = 0;       ///< that all of them take, or would take
  uint64_t held_bytes = 0;  ///< that those in memory take
  uint64_t hit_bytes =
      0;  ///< multiplied with: an expert's weights once for each layer's forward that hits it
  double read_seconds = 0;  ///< that forwards spent reading experts

  ExpertUse& operator+=(const ExpertUse& other) {
    experts += other.experts;
    held += other.held;
    bytes += other.bytes;
    held_bytes += other.held_bytes;
    hit_bytes += other.hit_bytes;
    read_seconds += other.read_seconds;
    return *this;
  }
};

class Stage {
 public:
  virtual ~Stage() = default;

  /// Width of the residual stream between stages; a hop carries tokens x hidden_size float32 values.
  virtual int64_t hidden_size() const = 0;
  virtual bool is_first() const = 0;  ///< holds the embedding: takes token ids, no hidden states
  virtual bool is_last() const = 0;   ///< holds the head: gives sampled tokens, no hidden states

  virtual size_t weight_bytes() const = 0;             ///< held now; any thread
  virtual ExpertUse expert_use() const { return {}; }  ///< any thread
  virtual size_t kv_bytes_per_block() const = 0;       ///< 0 for a stage without layers
  /// Gives the stage its KV blocks, instead of those that it had: what was in them is lost.
  virtual void allocate_cache(int64_t blocks) = 0;
  /// The same in the dtype that the stage computes in, whatever the cache's was.
  virtual void allocate_full_precision_cache(int64_t blocks) = 0;

  /// What the KV cache's format took from vectors kept since the last call.
  virtual CacheRounding take_cache_rounding() = 0;

  /// Asks the device for the forward of one micro-batch, behind those asked for before. `in_TD` (f32) is read
  /// unless is_first(); `out_TD` is written unless is_last(). The tokens drawn, row by row in the plan's
  /// order: one entry for each of a row's targets and one if it has `sampling`. Null where there are none,
  /// as always unless is_last().
  virtual DrawingPtr start(const proto::Plan& plan, TensorView in_TD, TensorView out_TD) = 0;
  /// The same, with the tokens waited for.
  std::vector<Sampled> forward(const proto::Plan& plan, TensorView in_TD, TensorView out_TD) {
    const DrawingPtr drawing = start(plan, in_TD, out_TD);
    return drawing ? drawing->take() : std::vector<Sampled>{};
  }
};

}  // namespace penstock
