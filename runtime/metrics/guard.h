// Watches the goals of a job. When one is broken for long, says what to step back to: smaller micro-batches,
// a smaller share of the KV cache, neither of which changes an answer, or a KV cache of full precision where
// a lower one was chosen. When every goal has then held for ten times as long, larger micro-batches are tried
// once more; if they break a goal again, the job goes back to the last setting that held and stays there.
// Plain judgement: no thread, no clock; it is shown one snapshot after another and goes by the time in them.
#pragma once

#include <cstdint>
#include <deque>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "runtime/metrics/histogram.h"

namespace penstock {

struct JobSnapshot;

struct GuardOptions {
  struct Goal {
    std::string name;
    double limit = 0;
  };
  std::vector<Goal> goals;
  double hold_seconds = 30;  ///< how long a goal must be broken, and what a percentile is taken over
};

/// "p99_tpot_ms=500,oom=3,for=60"; docs/formats.md lists the goals. Throws UsageError.
GuardOptions parse_guard(std::string_view text);

/// What a step back lowers.
struct GuardSettings {
  int64_t max_num_seqs = 0;
  int64_t max_num_batched_tokens = 0;
  int64_t kv_blocks = 0;
  std::string kv_dtype;
  bool operator==(const GuardSettings&) const = default;
  std::string text() const;
};

/// Where the KV cache keeps less than the job computes in: what it may be stepped up to, once.
struct FullPrecision {
  std::string kv_dtype;
  int64_t kv_blocks = 0;  ///< that the same memory holds
};

struct GuardGoalFigures {
  std::string name;
  double limit = 0;
  std::optional<double> value;  ///< absent while there is nothing to measure
  bool broken = false;
  double broken_seconds = 0;
  int64_t steps = 0;
};

struct GuardFigures {
  std::vector<GuardGoalFigures> goals;
  GuardSettings settings;
  std::vector<std::string> steps;  ///< what was done, newest first; the last few
};

/// Something to tell people.
struct GuardEvent {
  enum class Kind {
    broken,  ///< the goal, for long
    holds,   ///< the goal, again
    trying,  ///< no goal is broken, and a former setting is tried again
  };
  Kind kind = Kind::broken;
  std::string goal;
  double value = 0;
  double limit = 0;
  double seconds = 0;  ///< how long it was broken
  std::string text;    ///< a sentence
};

class Guard {
 public:
  /// `least`: nothing is lowered below that.
  Guard(GuardOptions options, const GuardSettings& start, const GuardSettings& least,
        std::optional<FullPrecision> full = {});

  /// The next snapshot, with the guard's own figures not yet in it. Afterwards settings() says what should
  /// hold from now on.
  std::vector<GuardEvent> look(const JobSnapshot& snapshot);

  const GuardSettings& settings() const { return settings_; }
  GuardFigures figures() const;

 private:
  struct Sample {
    double seconds = 0;
    Histogram per_token, between_tokens;
    int64_t preemptions = 0;
  };
  struct Goal {
    GuardGoalFigures figures;
    std::optional<double> over_since;  // measured under the settings of now
    std::optional<double> broken_since;
    bool told = false;
  };
  enum class Lever { none, batch, kv, precision };
  static Lever lever_of(const std::string& goal);

  std::optional<double> value_of(const std::string& name, const JobSnapshot& snapshot) const;
  void look_at(Goal& goal, const JobSnapshot& snapshot, std::vector<GuardEvent>& events);
  /// What was done, or nothing when nothing is left.
  std::string step_back(Lever lever, bool trouble_may_pass);
  void try_again(double now, std::vector<GuardEvent>& events);
  void take_full_precision();
  void remember(const std::string& step);
  void begin_anew();

  const GuardOptions options_;
  const GuardSettings least_;
  const int64_t start_blocks_;
  std::optional<FullPrecision> full_;  // until it is taken
  GuardSettings settings_;
  std::vector<Goal> goals_;
  std::deque<Sample> samples_;         // since the last step, the last hold_seconds
  uint64_t out_of_memory_ = 0;         // now, over all stages
  uint64_t out_of_memory_before_ = 0;  // when the last step was taken
  uint64_t nonfinite_ = 0;             // tokens, as above
  uint64_t nonfinite_before_ = 0;
  int64_t generated_ = 0;
  double progress_at_ = 0;  // when the last token came
  std::vector<std::string> steps_;
  double changed_at_ = 0;                    // when the settings were last changed
  bool may_try_ = true;                      // no trial has failed, and no step was for memory
  std::vector<GuardSettings> stepped_from_;  // newest last
  std::optional<GuardSettings> held_;        // while a former setting is tried: the last one that held
};

}  // namespace penstock
