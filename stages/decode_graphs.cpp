#include "stages/decode_graphs.h"

#include <algorithm>

namespace penstock {
namespace {

constexpr int64_t kMostRows = 256;
constexpr int64_t kLeastContext = 256;

int64_t round_up(int64_t x, int64_t unit) {
  return (x + unit - 1) / unit * unit;
}

/// Fine enough that little is computed in vain, coarse enough that few graphs are made.
int64_t rows_class(int64_t rows) {
  if (rows > 64) return round_up(rows, 16);
  if (rows > 8) return round_up(rows, 8);
  int64_t size = 1;
  while (size < rows) size *= 2;
  return size;
}

}  // namespace

DecodeGraphs::DecodeGraphs(Device& device, const StageSpec& spec)
    : device_(device), spec_(spec), enabled_(device.record([] {}) != nullptr) {}

int64_t DecodeGraphs::most_rows() const {
  return std::min({kMostRows, spec_.max_rows, spec_.max_tokens});
}

std::optional<StepSize> DecodeGraphs::size_for(const proto::Plan& plan) const {
  if (!enabled_ || plan.rows_size() == 0 || plan.rows_size() > most_rows()) return std::nullopt;
  int64_t longest = 0;
  for (const proto::PlannedRow& row : plan.rows()) {
    if (row.tokens_size() != 1 || !row.has_sampling() || row.targets_size() > 0) return std::nullopt;
    longest = std::max(longest, int64_t{row.start()} + 1);
  }
  int64_t context = kLeastContext;
  while (context < longest) context *= 2;
  context = round_up(std::min(context, spec_.max_model_len), spec_.block_size);
  return StepSize{std::min(rows_class(plan.rows_size()), most_rows()), context / spec_.block_size};
}

void DecodeGraphs::run(const StepSize& size, const std::function<void()>& ask) {
  const auto found = recorded_.find(size);
  if (found != recorded_.end()) return found->second->replay();
  ask();  // chooses algorithms and loads kernels, which cannot be recorded
  recorded_.emplace(size, device_.record(ask));
}

}  // namespace penstock
