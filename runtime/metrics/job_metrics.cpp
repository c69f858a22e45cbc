#include "runtime/metrics/job_metrics.h"

#include <algorithm>
#include <utility>

namespace penstock {
namespace {

constexpr size_t kRecent = 10;
constexpr size_t kMostHistory = 600;

/// Where this job began: with the rows of earlier ones.
JobFigures begin_of(const JobFigures& now) {
  JobFigures begin;
  begin.rows_done = now.rows_resumed;
  return begin;
}

HistoryPoint rates_between(const JobFigures& before, const JobFigures& now) {
  HistoryPoint point;
  point.seconds = now.seconds;
  const double seconds = now.seconds - before.seconds;
  if (seconds <= 0) return point;
  point.rows_per_second = static_cast<double>(now.rows_done - before.rows_done) / seconds;
  point.prompt_per_second = static_cast<double>(now.prompt_tokens - before.prompt_tokens) / seconds;
  point.generated_per_second = static_cast<double>(now.generated_tokens - before.generated_tokens) / seconds;
  return point;
}

/// Half as many points, each the mean of two.
void thin_out(std::vector<HistoryPoint>& history) {
  for (size_t i = 0; i + 1 < history.size(); i += 2) {
    const HistoryPoint& a = history[i];
    const HistoryPoint& b = history[i + 1];
    history[i / 2] = {b.seconds, (a.rows_per_second + b.rows_per_second) / 2,
                      (a.prompt_per_second + b.prompt_per_second) / 2,
                      (a.generated_per_second + b.generated_per_second) / 2};
  }
  history.resize(history.size() / 2);
}

}  // namespace

StageShares shares_between(const proto::StageReport& before, const proto::StageReport& now) {
  StageShares s{
      now.busy_seconds() - before.busy_seconds(), now.wait_input_seconds() - before.wait_input_seconds(),
      now.wait_plan_seconds() - before.wait_plan_seconds(), now.send_seconds() - before.send_seconds()};
  const double whole = s.busy + s.wait_input + s.wait_plan + s.send;
  if (whole <= 0) return {};
  return {s.busy / whole, s.wait_input / whole, s.wait_plan / whole, s.send / whole};
}

Histogram journal_commit_histogram() {
  return Histogram({0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 10});
}

JobMetrics::JobMetrics(JobDescription job)
    : requests_(job.max_model_len), job_(std::move(job)), stages_(job_.stages.size()) {}

void JobMetrics::stage_reported(const proto::StageReport& report, Clock::time_point now) {
  const std::lock_guard lock(mutex_);
  if (report.rank() >= stages_.size()) return;
  StageState& stage = stages_[report.rank()];
  stage.reports.push_back(report);
  stage.reports.back().clear_events();
  if (stage.reports.size() > kRecent + 1) stage.reports.pop_front();
  stage.reported = now;
}

void JobMetrics::progressed(const JobFigures& figures) {
  const std::lock_guard lock(mutex_);
  recent_.push_back(figures);
  if (recent_.size() > kRecent + 1) recent_.pop_front();
  if (history_.empty()) history_end_ = begin_of(figures);
  if (figures.seconds - history_end_.seconds < history_step_) return;
  history_.push_back(rates_between(history_end_, figures));
  history_end_ = figures;
  if (history_.size() < kMostHistory) return;
  thin_out(history_);
  history_step_ *= 2;
}

void JobMetrics::guarded(GuardFigures figures) {
  const std::lock_guard lock(mutex_);
  guard_ = std::move(figures);
}

void JobMetrics::cache_renewed(std::string numerics, std::string cache_dtype, int64_t blocks) {
  const std::lock_guard lock(mutex_);
  job_.numerics = std::move(numerics);
  job_.cache_dtype = std::move(cache_dtype);
  job_.blocks = blocks;
}

void JobMetrics::journal_committed(double seconds) {
  const std::lock_guard lock(mutex_);
  journal_commits_.observe(seconds);
}

void JobMetrics::finished() {
  const std::lock_guard lock(mutex_);
  over_ = true;
}

JobSnapshot JobMetrics::snapshot(Clock::time_point now) const {
  JobSnapshot snapshot;
  snapshot.requests = requests_.figures();
  const std::lock_guard lock(mutex_);
  snapshot.job = job_;
  if (!recent_.empty()) {
    snapshot.figures = recent_.back();
    snapshot.recent =
        rates_between(recent_.size() > 1 ? recent_.front() : begin_of(recent_.back()), recent_.back());
  }
  snapshot.journal_commits = journal_commits_;
  snapshot.history = history_;
  snapshot.guard = guard_;
  snapshot.over = over_;
  for (const StageState& state : stages_) {
    StageSnapshot& stage = snapshot.stages.emplace_back();
    if (state.reports.empty()) continue;
    const proto::StageReport& newest = state.reports.back();
    // Before the first forward the sums still start anew: what is older than that says nothing.
    proto::StageReport before;
    if (state.reports.size() > 1 && state.reports.front().micro_batches() > 0) before = state.reports.front();
    stage.report = newest;
    stage.age_seconds = std::chrono::duration<double>(now - state.reported).count();
    stage.recent = shares_between(before, newest);
    const double seconds = 1e-9 * static_cast<double>(newest.made_ns() - before.made_ns());
    if (before.made_ns() > 0 && seconds > 0)
      stage.sent_bytes_per_second = static_cast<double>(newest.edge_bytes() - before.edge_bytes()) / seconds;
  }
  return snapshot;
}

}  // namespace penstock
