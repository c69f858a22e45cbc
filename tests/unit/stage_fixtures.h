// Whole models in one process, cut into stages as asked and driven without a scheduler: for tests of stages.
#pragma once

#include <algorithm>
#include <fstream>
#include <memory>
#include <optional>
#include <span>

#include "runtime/pipeline/cut_cost.h"
#include "stages/build_stage.h"
#include "tests/unit/model_fixtures.h"

namespace penstock::test {

/// As --layer-partition has it, but any MLP may be shared.
inline Partition cut(const ModelConfig& config, const std::string& layers_by_stage) {
  const auto halves = static_cast<size_t>(2 * config.layer_count());
  CutCost cost{0, std::vector<double>(halves, 1.0), 0};
  for (size_t half = 0; half < halves; ++half) cost.may_be_shared.push_back(half % 2 == 1);
  const auto commas = std::count(layers_by_stage.begin(), layers_by_stage.end(), ',');
  return parse_partition(layers_by_stage, static_cast<int>(commas) + 1, cost);
}
inline Partition uncut(const ModelConfig& config) {
  return default_partition(config.layer_count(), 1);
}
constexpr uint32_t kSharedByThree = 3;  // the MLP of layer 1
/// The embedding and an attention; an MLP, an attention and in turns with the last stage the MLP behind it;
/// the rest.
inline Partition cut_in_three(const ModelConfig& config) {
  return cut(config, "0.5,1.25," + std::to_string(config.layer_count() - 2) + ".25");
}

struct Limits {
  DType dtype = DType::f32;
  int64_t max_model_len = 256;
  int64_t block_size = 16;
  int64_t max_tokens = 512;
  int64_t max_rows = 16;
  ExpertLoading experts = ExpertLoading::eager;
  std::optional<DType> kv{};
};

/// The stages of one model, chained by hand.
class Chain {
 public:
  Chain(const ModelConfig& config, WeightSource& source, const Partition& partition, const Limits& limits,
        Device& device, Ops& ops)
      : device_(device), limits_(limits) {
    for (const StageCut& cut : partition)
      stages_.push_back(build_stage(config, source,
                                    {cut, limits.dtype, limits.max_model_len, limits.block_size,
                                     limits.max_tokens, limits.max_rows, limits.experts, limits.kv},
                                    device, ops));
    for (const auto& stage : stages_) stage->allocate_cache(blocks());
  }

  int64_t blocks_a_row() const {
    return (limits_.max_model_len + limits_.block_size - 1) / limits_.block_size;
  }
  int64_t blocks() const { return limits_.max_rows * blocks_a_row(); }
  const Limits& limits() const { return limits_; }
  Stage& stage(size_t i) { return *stages_[i]; }

  std::vector<Sampled> forward(const proto::Plan& plan) {
    int64_t tokens = 0;
    for (const auto& row : plan.rows()) tokens += row.tokens_size();
    std::vector<Sampled> sampled;
    Tensor hidden;
    for (const auto& stage : stages_) {
      const TensorView in_TD = hidden;
      const Tensor out = device_.tensor(DType::f32, {tokens, stage->hidden_size()});
      sampled = stage->forward(plan, in_TD, out);
      hidden = out;
    }
    return sampled;
  }

 private:
  Device& device_;
  Limits limits_;
  std::vector<std::unique_ptr<Stage>> stages_;
};

/// Adds to `plan` the tokens of sequence `row` from position `start` on; its blocks are its own, in a
/// scattered order.
inline proto::PlannedRow& add_row(proto::Plan& plan, const Chain& chain, uint64_t row, int64_t start,
                                  std::span<const int32_t> tokens) {
  proto::PlannedRow& planned = *plan.add_rows();
  planned.set_sequence(row);
  planned.set_start(static_cast<uint32_t>(start));
  for (const int32_t t : tokens) planned.add_tokens(static_cast<uint32_t>(t));
  const int64_t context = start + static_cast<int64_t>(tokens.size());
  const int64_t needed = (context + chain.limits().block_size - 1) / chain.limits().block_size;
  for (int64_t b = 0; b < needed; ++b)
    planned.add_blocks(static_cast<uint32_t>(chain.blocks() - 1 -
                                             (b * chain.limits().max_rows + static_cast<int64_t>(row))));
  return planned;
}

inline void want_logits(proto::PlannedRow& row, int32_t logprobs) {
  row.mutable_sampling()->set_temperature(0);
  row.mutable_sampling()->set_top_p(1);
  row.mutable_sampling()->set_logprobs(logprobs);
}

/// Greedy answers of `steps` tokens to all prompts at once; prefill in chunks of at most `chunk` tokens a
/// sequence.
inline std::vector<std::vector<Sampled>> generate(Chain& chain,
                                                  const std::vector<std::vector<int32_t>>& prompts,
                                                  size_t steps, size_t chunk) {
  std::vector<std::vector<int32_t>> sequences = prompts;
  std::vector<size_t> done(prompts.size());
  std::vector<std::vector<Sampled>> answers(prompts.size());
  proto::Plan plan;
  uint64_t step = 0;
  do {
    plan.Clear();
    plan.set_step(step++);
    if (step % 3 != 0) plan.add_run_by_earlier(kSharedByThree);
    std::vector<size_t> sampled_rows;
    for (size_t r = 0; r < prompts.size(); ++r) {
      if (answers[r].size() == steps) continue;
      const size_t count = std::min(chunk, sequences[r].size() - done[r]);
      auto& row = add_row(plan, chain, r, static_cast<int64_t>(done[r]),
                          std::span(sequences[r]).subspan(done[r], count));
      done[r] += count;
      if (done[r] < sequences[r].size()) continue;
      want_logits(row, 3);
      sampled_rows.push_back(r);
    }
    const std::vector<Sampled> sampled = chain.forward(plan);
    EXPECT_EQ(sampled.size(), sampled_rows.size());
    for (size_t i = 0; i < sampled.size(); ++i) {
      answers[sampled_rows[i]].push_back(sampled[i]);
      sequences[sampled_rows[i]].push_back(sampled[i].token);
    }
  } while (plan.rows_size() > 0);
  return answers;
}

/// NAME.golden.json: greedy steps that another engine took in float32.
struct GoldenCase {
  struct Step {
    int32_t token;
    double margin;
    double logprob;
  };
  std::vector<int32_t> prompt;
  std::vector<Step> steps;
};

inline std::vector<GoldenCase> read_golden(const std::filesystem::path& model_dir) {
  std::ifstream file(model_dir.string() + ".golden.json");
  std::vector<GoldenCase> cases;
  const nlohmann::json golden = nlohmann::json::parse(file);
  for (const auto& json : golden.at("cases")) {
    GoldenCase& c = cases.emplace_back();
    json.at("prompt").get_to(c.prompt);
    for (const auto& s : json.at("steps")) c.steps.push_back({s.at("id"), s.at("margin"), s.at("logprob")});
  }
  return cases;
}

}  // namespace penstock::test
