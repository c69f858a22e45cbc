// A plan as the ops want it: checked, flattened into index arrays, and uploaded in one piece. Plans come over
// the network, so everything that would index memory is checked here, once.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "proto/plan.pb.h"
#include "stages/build_stage.h"

namespace penstock {

/// Fills a plan up with rows that do nothing: a token 0 each, at position 0 of a KV block that is nobody's.
struct Padding {
  int64_t rows = 0;          ///< at least so many rows in the batch
  int64_t table_stride = 0;  ///< at least so many columns in the block table
  int64_t block = 0;
};

class PlannedBatch {
 public:
  /// Allocates host and device arrays for the largest plan of `spec`.
  PlannedBatch(Device& device, const StageSpec& spec, int64_t vocab_size);

  /// Checks, pads and uploads. `blocks` is how many KV blocks the stage holds; a stage without a cache passes
  /// the largest number there is. Throws Error naming the micro-batch, the sequence, what was expected and
  /// what was found.
  void prepare(const proto::Plan& plan, int64_t blocks, const Padding& padding = {});

  /// Of the plan prepared last. Pointers are device memory, valid until the next prepare.
  const BatchView& view() const { return view_; }
  const int32_t* ids_T() const { return ids_T_; }
  /// The tokens whose logits are wanted, in the plan's order, and how to sample each. Room for a number a
  /// row; those behind the last are 0.
  const int32_t* sampled_rows_R() const { return sampled_rows_R_; }
  std::span<const SampleParams> params_R() const { return params_R_; }
  /// The tokens whose logits score a target, in the plan's order, and what to score.
  const int32_t* scored_rows_S() const { return scored_rows_S_; }
  std::span<const ScoreParams> scores_S() const { return scores_S_; }

 private:
  void check_scores(const proto::Plan& plan, const proto::PlannedRow& row) const;
  int64_t check(const proto::Plan& plan, int64_t blocks) const;

  Device& device_;
  StageSpec spec_;
  int64_t vocab_size_;
  std::vector<int32_t> host_;
  Tensor device_indices_;
  BatchView view_;
  const int32_t* ids_T_ = nullptr;
  const int32_t* sampled_rows_R_ = nullptr;
  std::vector<SampleParams> params_R_;
  const int32_t* scored_rows_S_ = nullptr;
  std::vector<ScoreParams> scores_S_;
};

}  // namespace penstock
