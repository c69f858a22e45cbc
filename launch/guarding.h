// Puts the guard to work: looks at each snapshot, says in log, metrics and alerts what it finds, and leaves
// the settings for the planning thread, which takes them up between two micro-batches.
//
// A KV cache of full precision takes the place of another at a step that all ranks agree on because rank 0
// alone plans: it lets everything in flight come back, and the next plan tells every stage.
#pragma once

#include <memory>
#include <mutex>
#include <optional>
#include <string>

#include "launch/rank_job.h"
#include "launch/watch_options.h"
#include "runtime/metrics/alert.h"
#include "runtime/metrics/guard.h"
#include "runtime/metrics/job_metrics.h"
#include "runtime/requests/batch_job.h"

namespace penstock {

class Guarding {
 public:
  /// Throws UsageError for flags that cannot be.
  Guarding(const WatchOptions& options, const GuardSettings& start, const GuardSettings& least,
           std::optional<FullPrecision> full, std::string full_numerics, JobMetrics& metrics);

  /// The watching thread, once an interval.
  void look(const JobSnapshot& snapshot);
  /// The planning thread, before each plan: has `job` take up the settings if they have changed.
  void steer(BatchJob& job);

 private:
  void tell(const GuardEvent& event, const JobSnapshot& snapshot);

  Guard guard_;
  const std::optional<FullPrecision> full_;  // where there is a step to it
  const std::string full_numerics_;
  bool full_taken_ = false;  // planning thread
  JobMetrics& metrics_;
  std::unique_ptr<AlertSender> alerts_;
  std::mutex mutex_;
  std::optional<GuardSettings> changed_;
};

/// Null without goals. A job never steps back so far that a sequence of --max-model-len has no room, or that
/// slots stay empty. Throws UsageError for flags that cannot be.
std::unique_ptr<Guarding> make_guard(const JobOptions& options, const ReadyRank& ready, JobMetrics& metrics);

}  // namespace penstock
