#include "runtime/pipeline/forward_in_parts.h"

#include <algorithm>
#include <iterator>
#include <utility>

namespace penstock {
namespace {

int64_t tokens_of(const proto::Plan& plan) {
  int64_t tokens = 0;
  for (const auto& row : plan.rows()) tokens += row.tokens_size();
  return tokens;
}

/// The plan's first `tokens` tokens, and the rest. A row that is cut continues in the second part, which then
/// samples.
std::pair<proto::Plan, proto::Plan> cut(const proto::Plan& plan, int64_t tokens) {
  std::pair<proto::Plan, proto::Plan> parts;
  parts.first.set_step(plan.step());
  parts.second.set_step(plan.step());
  *parts.first.mutable_run_by_earlier() = plan.run_by_earlier();
  *parts.second.mutable_run_by_earlier() = plan.run_by_earlier();
  *parts.first.mutable_forgotten() = plan.forgotten();
  for (const auto& row : plan.rows()) {
    const int64_t here = std::min<int64_t>(tokens, row.tokens_size());
    tokens -= here;
    if (here == row.tokens_size()) {
      *parts.first.add_rows() = row;
      continue;
    }
    auto* rest = parts.second.add_rows();
    *rest = row;
    if (here == 0) continue;
    const int64_t from = row.score_from();
    const auto scored = static_cast<int>(std::clamp<int64_t>(here - from, 0, row.targets_size()));
    rest->set_score_from(static_cast<uint32_t>(std::max<int64_t>(0, from - here)));
    rest->mutable_targets()->erase(rest->targets().begin(), rest->targets().begin() + scored);
    rest->set_start(row.start() + static_cast<uint32_t>(here));
    rest->mutable_tokens()->erase(rest->tokens().begin(), rest->tokens().begin() + here);
    auto* begun = parts.first.add_rows();
    *begun = row;
    begun->mutable_tokens()->Truncate(static_cast<int>(here));
    begun->mutable_targets()->Truncate(scored);
    begun->clear_sampling();
  }
  return parts;
}

TensorView rows_of(const TensorView& view_TD, int64_t from, int64_t rows) {
  if (view_TD.data == nullptr) return {};
  const size_t row_bytes = static_cast<size_t>(view_TD.dim(1)) * bytes_of(view_TD.dtype);
  return {view_TD.as<char>() + static_cast<size_t>(from) * row_bytes, view_TD.dtype,
          Shape{rows, view_TD.dim(1)}};
}

}  // namespace

DrawingPtr forward_in_parts(Stage& stage, Device& device, const proto::Plan& plan, TensorView in_TD,
                            TensorView out_TD, const std::function<void()>& ran_out) {
  try {
    return stage.start(plan, in_TD, out_TD);
  } catch (const OutOfMemory&) {
    if (tokens_of(plan) < 2) throw;
  }
  ran_out();
  device.synchronize();  // what was begun may still use the memory of this forward
  const int64_t all = tokens_of(plan);
  const int64_t half = all / 2;
  const auto [first, second] = cut(plan, half);
  std::vector<Sampled> sampled;
  const auto take = [&sampled](const DrawingPtr& drawing) {
    if (!drawing) return;
    std::vector<Sampled> some = drawing->take();
    sampled.insert(sampled.end(), std::make_move_iterator(some.begin()), std::make_move_iterator(some.end()));
  };
  take(forward_in_parts(stage, device, first, rows_of(in_TD, 0, half), rows_of(out_TD, 0, half), ran_out));
  device.synchronize();  // the halves share the stage's working memory
  take(forward_in_parts(stage, device, second, rows_of(in_TD, half, all - half),
                        rows_of(out_TD, half, all - half), ran_out));
  return std::make_unique<Drawn>(std::move(sampled));
}

}  // namespace penstock
