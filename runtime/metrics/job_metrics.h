// What rank 0 knows of the running job: the newest report of every stage, the requests' figures, and a
// history of throughput. Everything that is shown (/metrics, the page, log lines, the guard) is made from one
// snapshot. Any thread may call; knows no clock of its own.
#pragma once

#include <chrono>
#include <cstdint>
#include <deque>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "proto/plan.pb.h"
#include "runtime/metrics/guard.h"
#include "runtime/metrics/histogram.h"
#include "runtime/metrics/request_metrics.h"

namespace penstock {

struct StageLabels {
  int rank = 0;
  std::string host;
  std::string device;
  std::string part;  ///< "layers 0-5"
};

/// What does not change while the job runs, unless its KV cache is made anew.
struct JobDescription {
  std::string model_name;
  std::string numerics;
  std::string cache_dtype;
  int64_t block_size = 0;
  int64_t blocks = 0;
  int64_t max_model_len = 0;
  int micro_batches = 0;
  int processors =
      0;  ///< stages of a replica that can compute at once where they share cores; 0: all of them
  std::vector<StageLabels> stages;  ///< by rank
  int replicas = 1;

  int stages_each() const { return static_cast<int>(stages.size()) / replicas; }
  int stage_of(size_t rank) const { return static_cast<int>(rank) % stages_each(); }
  int replica_of(size_t rank) const { return static_cast<int>(rank) / stages_each(); }
  /// Hidden states go from this rank to the next.
  bool has_edge_from(size_t rank) const { return stage_of(rank) + 1 < stages_each(); }
};

/// Where the job stands, as the closing table prints it.
struct JobFigures {
  double seconds = 0;     ///< since the job began; 0: it does not run yet
  int64_t rows_done = 0;  ///< failed ones included
  int64_t rows_failed = 0;
  int64_t rows_resumed = 0;             ///< of those done, by earlier jobs: no speed of this one
  int64_t failed_resumed = 0;           ///< of those resumed
  std::optional<double> rows_expected;  ///< known once the input has ended, estimated before
  std::optional<double> eta_seconds;
  int64_t prompt_tokens = 0;
  int64_t generated_tokens = 0;
  int64_t running = 0;
  int64_t waiting = 0;
  int64_t preemptions = 0;
  double kv_used_share = 0;
};

/// Without observations.
Histogram journal_commit_histogram();

/// What a stage did between two moments, as shares of that time.
struct StageShares {
  double busy = 0, wait_input = 0, wait_plan = 0, send = 0;
};

/// Of the whole time that `now` tells and `before` does not.
StageShares shares_between(const proto::StageReport& before, const proto::StageReport& now);

struct StageSnapshot {
  proto::StageReport report;
  std::optional<double> age_seconds;  ///< of the report; absent before the first one
  StageShares recent;                 ///< over the last ten reports or so
  double sent_bytes_per_second = 0;   ///< recently, to the next stage
};

struct HistoryPoint {
  double seconds = 0;
  double rows_per_second = 0;
  double prompt_per_second = 0;
  double generated_per_second = 0;
};

struct JobSnapshot {
  JobDescription job;
  JobFigures figures;
  HistoryPoint recent;                ///< rates over the last ten seconds or so
  std::vector<StageSnapshot> stages;  ///< by rank
  RequestFigures requests;
  Histogram journal_commits = journal_commit_histogram();  ///< seconds
  std::vector<HistoryPoint> history;                       ///< the whole job, oldest first
  std::optional<GuardFigures> guard;
  bool over = false;
};

class JobMetrics {
 public:
  using Clock = std::chrono::steady_clock;

  explicit JobMetrics(JobDescription job);

  RequestMetrics& requests() { return requests_; }

  /// A report without its events. One of a stage that the job does not have is passed over.
  void stage_reported(const proto::StageReport& report, Clock::time_point now);
  /// Once a second or so: where the job stands.
  void progressed(const JobFigures& figures);
  void guarded(GuardFigures figures);
  /// The KV cache was made anew.
  void cache_renewed(std::string numerics, std::string cache_dtype, int64_t blocks);
  /// A group commit of the journal, write and sync.
  void journal_committed(double seconds);
  /// No figure changes any more.
  void finished();

  JobSnapshot snapshot(Clock::time_point now) const;

 private:
  struct StageState {
    std::deque<proto::StageReport> reports;  // newest last
    Clock::time_point reported;
  };

  RequestMetrics requests_;
  mutable std::mutex mutex_;  // guards what follows
  JobDescription job_;
  std::vector<StageState> stages_;
  std::deque<JobFigures> recent_;  // newest last
  std::vector<HistoryPoint> history_;
  JobFigures history_end_;  // where the last point of the history stands
  double history_step_ = 1;
  std::optional<GuardFigures> guard_;
  Histogram journal_commits_ = journal_commit_histogram();
  bool over_ = false;
};

}  // namespace penstock
