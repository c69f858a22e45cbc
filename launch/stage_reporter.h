// Tells rank 0, once a second, what this rank's stage does and holds, from a thread of its own: a stage that
// hangs in a forward is told of too. On rank 0 itself the report goes to `local`.
#pragma once

#include <condition_variable>
#include <functional>
#include <mutex>
#include <thread>

#include "launch/rank_job.h"
#include "runtime/comm/world.h"
#include "runtime/metrics/stage_meter.h"

namespace penstock {

class StageReporter {
 public:
  using Local = std::function<void(proto::StageReport)>;

  /// All references must outlive this. 0 seconds: no live reports.
  StageReporter(World& world, StageMeter& meter, const ReadyRank& ready, double seconds, Local local = {});
  ~StageReporter();
  StageReporter(const StageReporter&) = delete;
  StageReporter& operator=(const StageReporter&) = delete;

 private:
  void report_until_stopped(double seconds);

  World& world_;
  StageMeter& meter_;
  const ReadyRank& ready_;
  const Local local_;
  std::mutex mutex_;
  std::condition_variable stop_changed_;
  bool stop_ = false;
  std::thread thread_;
};

/// Adds what the rank holds to what its stage did.
proto::StageReport complete_report(proto::StageReport report, const ReadyRank& ready);

}  // namespace penstock
