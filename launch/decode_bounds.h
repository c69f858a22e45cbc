// What decode steps read and multiply, for the bounds beside a benchmark's figures. With experts that is not
// all of a model: it depends on where rows were routed to, so it is counted while the job runs.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "kernels/bench.h"
#include "launch/job_options.h"
#include "runtime/pipeline/stage.h"

namespace penstock {

/// Hands everything on to `stage`, which must outlive it, and counts in decode steps, micro-batches of
/// nothing but one new token a row, since the last one that was not: when all prompts have been filled in.
class DecodeCounter final : public Stage {
 public:
  explicit DecodeCounter(Stage& stage) : stage_(stage) {}

  int64_t hidden_size() const override { return stage_.hidden_size(); }
  bool is_first() const override { return stage_.is_first(); }
  bool is_last() const override { return stage_.is_last(); }
  size_t weight_bytes() const override { return stage_.weight_bytes(); }
  ExpertUse expert_use() const override { return stage_.expert_use(); }
  size_t kv_bytes_per_block() const override { return stage_.kv_bytes_per_block(); }
  void allocate_cache(int64_t blocks) override { stage_.allocate_cache(blocks); }
  void allocate_full_precision_cache(int64_t blocks) override {
    stage_.allocate_full_precision_cache(blocks);
  }
  CacheRounding take_cache_rounding() override { return stage_.take_cache_rounding(); }
  DrawingPtr start(const proto::Plan& plan, TensorView in_TD, TensorView out_TD) override;

  /// For DecodeBounds on rank 0.
  std::string text() const;

 private:
  Stage& stage_;
  int64_t steps_ = 0;
  int64_t rows_ = 0;
  int64_t positions_ = 0;  // of the KV cache that the rows saw
  uint64_t expert_bytes_ = 0;
};

/// A mean decode step of the whole model.
struct DecodeStep {
  double rows = 0;
  double weight_bytes = 0;  ///< read: without the embedding, of experts those that were hit
  double expert_bytes = 0;  ///< of weight_bytes
  double experts_hit = 0;   ///< of all experts' bytes, 0 to 1
  /// Which were hit is not counted but expected: on a GPU the host does not see where rows are routed to.
  bool experts_by_lot = false;
  double kv_bytes = 0;
  double flops = 0;  ///< of weights and of attention

  double bytes() const { return weight_bytes + kv_bytes; }
};

/// From DecodeCounter::text of every rank. Without decode steps all is 0.
DecodeStep mean_decode_step(const JobShape& shape, const std::vector<std::string>& counted);

/// One line: the time a step would take if it only read, or only multiplied, and how near `seconds` comes.
/// `computing`: stages that work on steps of their own at the same time.
std::string floor_text(const DecodeStep& step, const MachineBounds& bounds, double flops_peak, double seconds,
                       int computing);

}  // namespace penstock
