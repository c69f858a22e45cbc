#include "launch/warm_up.h"

#include <algorithm>
#include <vector>

#include "runtime/base/rng.h"

namespace penstock {
namespace {

/// A micro-batch of about `tokens` tokens in as many sequences as may be; all of them use the same blocks.
proto::Plan made_up_plan(const StageSpec& spec, int64_t vocab_size, int64_t tokens) {
  proto::Plan plan = empty_made_up_plan(spec);
  const int64_t rows = std::min(tokens, spec.max_rows);
  for (int64_t r = 0; r < rows; ++r) {
    const int64_t count = std::min((r + 1) * tokens / rows - r * tokens / rows, spec.max_model_len);
    add_made_up_row(plan, spec, vocab_size, 0, count, 0, warm_up_blocks(spec));
  }
  return plan;
}

int64_t tokens_of(const proto::Plan& plan) {
  int64_t tokens = 0;
  for (const auto& row : plan.rows()) tokens += row.tokens_size();
  return tokens;
}

/// 1, 2, 3, 4, 6, 8, 12, ... and the largest: an algorithm serves all sizes between two of them.
std::vector<int64_t> sizes_up_to(int64_t largest) {
  std::vector<int64_t> sizes;
  for (int64_t size = 1; size < largest; size *= 2) {
    sizes.push_back(size);
    if (size > 1 && size / 2 * 3 < largest) sizes.push_back(size / 2 * 3);
  }
  sizes.push_back(largest);
  return sizes;
}

}  // namespace

proto::Plan empty_made_up_plan(const StageSpec& spec) {
  proto::Plan plan;
  if (spec.cut.last_in_turns) plan.add_run_by_earlier(static_cast<uint32_t>(spec.cut.last_half()));
  return plan;
}

void add_made_up_row(proto::Plan& plan, const StageSpec& spec, int64_t vocab_size, int64_t start,
                     int64_t tokens, int64_t first_block, int64_t blocks) {
  const auto sequence = static_cast<uint64_t>(plan.rows_size());
  proto::PlannedRow& row = *plan.add_rows();
  row.set_sequence(sequence);
  row.set_start(static_cast<uint32_t>(start));
  for (int64_t i = 0; i < tokens; ++i)
    row.add_tokens(philox(sequence, static_cast<uint64_t>(i))[0] % static_cast<uint32_t>(vocab_size));
  for (int64_t b = 0; b * spec.block_size < start + tokens; ++b)
    row.add_blocks(static_cast<uint32_t>((first_block + b) % blocks));
  row.mutable_sampling()->set_logprobs(-1);
}

Tensor made_up_hidden(Device& device, int64_t tokens, int64_t hidden_size) {
  constexpr int64_t kDifferent = 64;  // rows
  const int64_t rows = std::min(tokens, kDifferent);
  std::vector<float> some(static_cast<size_t>(rows * hidden_size));
  for (size_t i = 0; i < some.size(); ++i) some[i] = 4 * uniform_open(philox(1, i)[0]) - 2;
  Tensor hidden = device.tensor(DType::f32, {tokens, hidden_size});
  for (int64_t first = 0; first < tokens; first += rows)
    device.upload(hidden.view.as<float>() + first * hidden_size, some.data(),
                  static_cast<size_t>(std::min(rows, tokens - first) * hidden_size) * sizeof(float));
  return hidden;
}

int64_t warm_up_blocks(const StageSpec& spec) {
  const int64_t longest = std::min(spec.max_tokens, spec.max_model_len);
  return (longest + spec.block_size - 1) / spec.block_size;
}

void warm_up(Stage& stage, Device& device, const StageSpec& spec, int64_t vocab_size) {
  Tensor in, out;
  if (!stage.is_first()) in = made_up_hidden(device, spec.max_tokens, stage.hidden_size());
  if (!stage.is_last()) out = device.tensor(DType::f32, {spec.max_tokens, stage.hidden_size()});
  for (const int64_t size : sizes_up_to(spec.max_tokens)) {
    const proto::Plan plan = made_up_plan(spec, vocab_size, size);
    const int64_t tokens = tokens_of(plan);
    stage.forward(plan, in ? in.view.first(tokens) : TensorView{},
                  out ? out.view.first(tokens) : TensorView{});
  }
  device.synchronize();
}

}  // namespace penstock
