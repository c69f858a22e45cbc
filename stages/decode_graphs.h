// Decode steps of one size ask the device for the same work each time, so it is recorded and replayed: a GPU
// then starts some three hundred kernels with one call. A step is filled up to a size class with rows that do
// nothing, which no other row's bits depend on.
#pragma once

#include <compare>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>

#include "proto/plan.pb.h"
#include "stages/build_stage.h"

namespace penstock {

/// What a step is filled up to, and the stage's half layers that it goes through.
struct StepSize {
  int64_t rows = 0;
  int64_t table_stride = 0;  ///< KV blocks a row
  size_t halves_begin = 0;   ///< the latter two are for the stage to set
  size_t halves_end = 0;
  auto operator<=>(const StepSize&) const = default;
};

class DecodeGraphs {
 public:
  DecodeGraphs(Device& device, const StageSpec& spec);

  /// Whether this device records at all.
  bool enabled() const { return enabled_; }
  /// The most rows of a step that is recorded: with more, the device takes longer than the host does to ask.
  int64_t most_rows() const;
  /// None unless the device records, and `plan` is a decode step: a token a row, all of them sampled, not
  /// too many.
  std::optional<StepSize> size_for(const proto::Plan& plan) const;
  /// Replays what `ask` asked for when it last ran for this size; the first time lets it ask, and records it
  /// for the next time. What it asks for must depend on the size alone.
  void run(const StepSize& size, const std::function<void()>& ask);
  /// The memory that the work uses has moved.
  void clear() { recorded_.clear(); }

 private:
  Device& device_;
  StageSpec spec_;
  bool enabled_;
  std::map<StepSize, std::unique_ptr<Recording>> recorded_;
};

}  // namespace penstock
