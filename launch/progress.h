// What the user sees while a job runs and when it ends, on standard error. Text is made by pure functions;
// Progress owns a thread that prints it now and then.
#pragma once

#include <condition_variable>
#include <functional>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "launch/rank_job.h"
#include "runtime/metrics/job_metrics.h"
#include "runtime/requests/batch_job.h"

namespace penstock {

/// What every display of the job is made from.
JobFigures job_figures(const JobProgress& progress);

/// "rows 120 of about 1000 (12 %), 8.1 rows/s, ETA 1 m 40 s, Avg prompt throughput: 903.0 tokens/s, Avg
/// generation throughput: 420.0 tokens/s, Running: 64 reqs, Waiting: 9 reqs, KV cache usage: 35.0 %": from
/// "Avg" on in vLLM's words. Rates are over the time since `before`.
std::string progress_line(const JobFigures& now, const JobFigures& before);

/// The closing table. `reports` by rank. `results` names the output file.
std::string closing_summary(const JobProgress& end, const std::vector<proto::StageReport>& reports,
                            const ReadyRank& ready, const std::string& results);

/// Prints progress lines until destroyed: over one another on a terminal, else one a minute, one below the
/// other.
class Progress {
 public:
  /// `figures` is asked from its thread.
  Progress(std::function<JobFigures()> figures, double seconds_between_lines);
  ~Progress();
  Progress(const Progress&) = delete;
  Progress& operator=(const Progress&) = delete;

 private:
  void print_until_stopped(double seconds);

  std::function<JobFigures()> figures_;
  bool terminal_;
  std::mutex mutex_;
  std::condition_variable stop_changed_;
  bool stop_ = false;
  std::thread thread_;
};

}  // namespace penstock
