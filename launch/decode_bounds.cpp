#include "launch/decode_bounds.h"

#include <algorithm>
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

}  // namespace

DrawingPtr DecodeCounter::start(const proto::Plan& plan, TensorView in_TD, TensorView out_TD) {
  const uint64_t before = stage_.expert_use().hit_bytes;
  DrawingPtr drawing = stage_.start(plan, in_TD, out_TD);
  if (!is_decode(plan)) return drawing;
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
  for (size_t s = 0; s < counted.size(); ++s) {
    std::istringstream text(counted[s]);
    double steps = 0, rows = 0, stage_positions = 0, hit = 0, others = 0, experts = 0;
    text >> steps >> rows >> stage_positions >> hit >> others >> experts;
    if (steps == 0) return {};
    const bool table = shape.partition[s].embedding;
    step.rows = rows / steps;
    positions = stage_positions / steps;
    step.expert_bytes += hit / steps;
    step.weight_bytes += others + hit / steps;
    if (table)
      step.weight_bytes -= static_cast<double>(embedding_cost(shape.config, shape.dtype).weight_bytes);
    all_experts += experts;
  }
  step.experts_hit = all_experts > 0 ? step.expert_bytes / all_experts : 0;
  step.flops = step.rows * head_cost(shape.config, shape.dtype).flops_per_token;
  for (int64_t l = 0; l < shape.config.layer_count(); ++l) {
    step.kv_bytes += positions * static_cast<double>(kv_bytes_per_block(shape.config, l, shape.dtype, 1));
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
    std::snprintf(experts, sizeof experts, ", experts %.2f GB: %.1f %% of them", 1e-9 * step.expert_bytes,
                  100 * step.experts_hit);
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
