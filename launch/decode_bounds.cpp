#include "launch/decode_bounds.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <sstream>

#include "runtime/model/model_cost.h"

namespace penstock {
namespace {

bool is_decode(const proto::Plan& plan) {
  return std::all_of(plan.rows().begin(), plan.rows().end(), [](const proto::PlannedRow& row) {
    return row.tokens_size() == 1 && row.has_sampling() && row.sampling().position() > 0;
  });
}

/// Of one stage: steps and what they did over all replicas, weights of one.
struct StageCounts {
  double steps = 0, rows = 0, positions = 0, hit = 0;
  double others = 0, experts = 0;
};

StageCounts counts_of(const Layout& layout, const std::vector<std::string>& counted, int stage) {
  StageCounts sum;
  for (int r = 0; r < layout.replicas; ++r) {
    StageCounts one;
    std::istringstream text(counted[static_cast<size_t>(layout.first_rank(r) + stage)]);
    text >> one.steps >> one.rows >> one.positions >> one.hit >> sum.others >> sum.experts;
    sum.steps += one.steps;
    sum.rows += one.rows;
    sum.positions += one.positions;
    sum.hit += one.hit;
  }
  return sum;
}

/// Of the stage's experts, how much `rows` rows hit when each chooses as if by lot.
double expected_share(const JobShape& shape, const StageCut& cut, int64_t rows) {
  double share = 0;  // every layer with experts has the same gate
  for (int64_t half = cut.first_half; half < cut.first_half + cut.halves; ++half)
    if (half % 2 == 1) share = std::max(share, share_of_experts_hit(shape.config, half / 2, rows));
  return share;
}

}  // namespace

DrawingPtr DecodeCounter::start(const proto::Plan& plan, TensorView in_TD, TensorView out_TD) {
  const uint64_t before = stage_.expert_use().hit_bytes;
  DrawingPtr drawing = stage_.start(plan, in_TD, out_TD);
  if (!is_decode(plan)) {
    steps_ = rows_ = positions_ = 0;
    expert_bytes_ = 0;
    return drawing;
  }
  ++steps_;
  rows_ += plan.rows_size();
  for (const proto::PlannedRow& row : plan.rows()) positions_ += int64_t{row.start()} + 1;
  expert_bytes_ += stage_.expert_use().hit_bytes - before;
  return drawing;
}

std::string DecodeCounter::text() const {
  const ExpertUse use = stage_.expert_use();
  std::ostringstream text;
  text << steps_ << " " << rows_ << " " << positions_ << " " << expert_bytes_ << " "
       << stage_.weight_bytes() - use.held_bytes << " " << use.bytes;
  return text.str();
}

DecodeStep mean_decode_step(const JobShape& shape, const std::vector<std::string>& counted) {
  DecodeStep step;
  double all_experts = 0;
  double positions = 0;
  for (int s = 0; s < shape.layout.stages; ++s) {
    const StageCut& cut = shape.partition[static_cast<size_t>(s)];
    StageCounts of = counts_of(shape.layout, counted, s);
    if (of.steps == 0) return {};
    if (of.experts > 0 && of.hit == 0) {
      of.hit = of.steps * of.experts * expected_share(shape, cut, std::llround(of.rows / of.steps));
      step.experts_by_lot = true;
    }
    step.rows = of.rows / of.steps;
    positions = of.positions / of.steps;
    step.expert_bytes += of.hit / of.steps;
    step.weight_bytes += of.others + of.hit / of.steps;
    if (cut.embedding)
      step.weight_bytes -= static_cast<double>(embedding_cost(shape.config, shape.dtype).weight_bytes);
    if (cut.first_in_turns)  // the stage before has it too, and one of them reads it
      step.weight_bytes -=
          static_cast<double>(half_cost(shape.config, cut.first_half, shape.dtype).weight_bytes);
    all_experts += of.experts;
  }
  step.experts_hit = all_experts > 0 ? step.expert_bytes / all_experts : 0;
  step.flops = step.rows * head_cost(shape.config, shape.dtype).flops_per_token;
  for (int64_t l = 0; l < shape.config.layer_count(); ++l) {
    step.kv_bytes += positions * static_cast<double>(kv_bytes_per_block(shape.config, l, shape.kv_dtype, 1));
    step.flops += step.rows * layer_cost(shape.config, l, shape.dtype).flops_per_token +
                  positions * attention_flops_per_token(shape.config, l, 1);
  }
  return step;
}

std::string floor_text(const DecodeStep& step, const MachineBounds& bounds, double flops_peak, double seconds,
                       int computing) {
  const double reading = step.bytes() / bounds.read_bytes;
  const double multiplying = step.flops / flops_peak;
  const double taken = seconds * computing;
  char experts[96] = "";
  if (step.expert_bytes > 0)
    std::snprintf(experts, sizeof experts, ", experts %.2f GB: %.1f %% of them%s", 1e-9 * step.expert_bytes,
                  100 * step.experts_hit, step.experts_by_lot ? " by lot" : "");
  char text[512];
  std::snprintf(text, sizeof text,
                "a step of %.1f rows reads %.2f GB (KV %.2f GB%s): %.1f ms; multiplies %.1f GFLOP: %.1f ms; "
                "took %.1f ms%s: %.1f %% of the tighter bound",
                step.rows, 1e-9 * step.bytes(), 1e-9 * step.kv_bytes, experts, 1e3 * reading,
                1e-9 * step.flops, 1e3 * multiplying, 1e3 * taken, computing > 1 ? " of stages' time" : "",
                100 * std::max(reading, multiplying) / taken);
  return text;
}

}  // namespace penstock
