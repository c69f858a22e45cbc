// The logit rules of the sequences that run: told with a plan, kept by the last stage, counted on with every
// token that follows. What comes out are edits of single logits (kernels/ops.h). One thread, the stage's.
//
// A plan may be taken in twice, whole or in parts (runtime/pipeline/forward_in_parts.h): what is known is not
// counted again.
#pragma once

#include <cstdint>
#include <unordered_map>
#include <vector>

#include "kernels/ops.h"
#include "proto/plan.pb.h"

namespace penstock {

class RuleBook {
 public:
  explicit RuleBook(int64_t vocab_size) : vocab_size_(vocab_size) {}

  /// Takes in what the plan tells and puts the rules of its sampled rows into `params_R`, one for each row
  /// with sampling. Throws Error naming the sequence when the plan does not go on from what is known. The
  /// spans are valid until the next call.
  void apply(const proto::Plan& plan, std::vector<SampleParams>& params_R);

 private:
  struct Rules {
    float repetition_penalty = 1;
    float frequency_penalty = 0;
    float presence_penalty = 0;
    uint32_t generated = 0;  // tokens counted
    std::vector<int32_t> allowed;
    std::vector<LogitEdit> edits;  // by token
    std::vector<int32_t> counts;   // of each edit's token among the generated ones
  };

  Rules learn(const proto::PlannedRow& row) const;
  void count(Rules& rules, uint32_t token) const;
  size_t edit_of(Rules& rules, uint32_t token) const;

  int64_t vocab_size_;
  std::unordered_map<uint64_t, Rules> rules_;  // by sequence
};

}  // namespace penstock
