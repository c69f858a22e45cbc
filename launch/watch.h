// Rank 0's side of watching a job: takes in the stages' reports, keeps the job's figures, serves them. It has
// a thread of its own; the job only hands things over.
#pragma once

#include <chrono>
#include <condition_variable>
#include <deque>
#include <memory>
#include <mutex>
#include <thread>

#include "launch/guarding.h"
#include "launch/rank_job.h"
#include "launch/watch_options.h"
#include "runtime/comm/world.h"
#include "runtime/metrics/http_server.h"
#include "runtime/metrics/job_metrics.h"
#include "runtime/metrics/trace.h"
#include "runtime/requests/batch_job.h"

namespace penstock {

class Watch {
 public:
  using Clock = std::chrono::steady_clock;

  /// Begins to listen. `metrics` and `world` must outlive this. Throws UsageError when it cannot listen, or
  /// the trace cannot be written.
  Watch(World& world, const WatchOptions& options, const JobDescription& job, JobMetrics& metrics);
  ~Watch();
  Watch(const Watch&) = delete;
  Watch& operator=(const Watch&) = delete;

  /// Goals to watch, from before start() on; must outlive this.
  void set_guard(Guarding& guard) { guard_ = &guard; }

  /// The job runs: takes in live reports, and asks `job` once an interval where it stands, until finish().
  void start(const BatchJob& job);

  /// Where the job stands now. Any thread, after start().
  JobFigures figures() const;

  /// Any thread: a stage's report.
  void hear(proto::StageReport report);

  /// The job has ended: takes in everyone's last report. From here on the figures stand still.
  void finish(const JobProgress& end, const std::vector<proto::StageReport>& reports);
  /// For how long the figures shall be served after the job; none when nothing listens.
  std::chrono::duration<double> linger_time() const;

 private:
  struct Heard {
    proto::StageReport report;
    Clock::time_point when;
  };

  void watch_until_stopped();
  void take_in(std::deque<Heard> heard);
  void finish_trace(const std::vector<proto::StageReport>& reports);
  void stop();
  std::optional<HttpAnswer> answer(std::string_view path) const;

  World& world_;
  const WatchOptions options_;
  JobMetrics& metrics_;
  const BatchJob* job_ = nullptr;
  std::unique_ptr<TraceWriter> trace_;
  Guarding* guard_ = nullptr;

  std::mutex mutex_;  // guards what follows
  std::condition_variable changed_;
  std::deque<Heard> heard_;
  bool stop_ = false;

  std::thread thread_;
  std::unique_ptr<HttpServer> server_;
};

}  // namespace penstock
