// Puts the guard to work: looks at each snapshot, says in log, metrics and alerts what it finds, and leaves
// the settings for the planning thread, which takes them up between two micro-batches.
#pragma once

#include <memory>
#include <mutex>
#include <optional>
#include <string>

#include "launch/watch_options.h"
#include "runtime/metrics/alert.h"
#include "runtime/metrics/guard.h"
#include "runtime/metrics/job_metrics.h"

namespace penstock {

class Guarding {
 public:
  /// Throws UsageError for flags that cannot be.
  Guarding(const WatchOptions& options, const GuardSettings& start, const GuardSettings& least,
           std::optional<FullPrecision> full, JobMetrics& metrics);

  /// The watching thread, once an interval.
  void look(const JobSnapshot& snapshot);
  /// The planning thread: settings to take up, if they have changed since the last call.
  std::optional<GuardSettings> changed();

 private:
  void tell(const GuardEvent& event, const JobSnapshot& snapshot);

  Guard guard_;
  JobMetrics& metrics_;
  std::unique_ptr<AlertSender> alerts_;
  std::mutex mutex_;
  std::optional<GuardSettings> changed_;
};

}  // namespace penstock
