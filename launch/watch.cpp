#include "launch/watch.h"

#include <utility>

#include "launch/progress.h"
#include "runtime/base/log.h"
#include "runtime/metrics/exposition.h"
#include "runtime/metrics/page.h"

namespace penstock {
namespace {

// Stages report once an interval; with this many waiting rank 0 is too busy to look, and newer ones count.
constexpr size_t kMostHeard = 4096;

}  // namespace

Watch::Watch(World& world, const WatchOptions& options, const JobDescription& job, JobMetrics& metrics)
    : world_(world), options_(options), metrics_(metrics) {
  if (!options.trace.empty()) {
    if (options.interval_seconds <= 0)
      throw UsageError("--trace: expected --metrics-interval above 0, which carries it home, found 0");
    trace_ = std::make_unique<TraceWriter>(options.trace, job, nanoseconds(Clock::now()));
  }
  if (!options.port) return;
  server_ = std::make_unique<HttpServer>(options.host, *options.port,
                                         [this](std::string_view path) { return answer(path); });
  log::info("watch: http://" + server_->address() + "/ and http://" + server_->address() + "/metrics");
}

Watch::~Watch() {
  stop();
}

void Watch::start(const BatchJob& job) {
  job_ = &job;
  if (options_.interval_seconds <= 0) return;
  metrics_.progressed(figures());  // where it begins, so that earlier jobs' rows are nobody's speed
  world_.control().hear_live_reports([this](const ControlMessage& message) {
    proto::StageReport report;
    if (!report.ParseFromString(message.payload) || report.rank() != static_cast<uint32_t>(message.from))
      return log::warning("rank " + std::to_string(message.from) + " sent a report that cannot be read");
    hear(std::move(report));
  });
  thread_ = std::thread([this] { watch_until_stopped(); });
}

void Watch::hear(proto::StageReport report) {
  {
    const std::lock_guard lock(mutex_);
    if (heard_.size() >= kMostHeard) heard_.pop_front();
    heard_.push_back({std::move(report), Clock::now()});
  }
  changed_.notify_all();
}

void Watch::watch_until_stopped() {
  const auto interval =
      std::chrono::duration_cast<Clock::duration>(std::chrono::duration<double>(options_.interval_seconds));
  auto next = Clock::now() + interval;
  std::unique_lock lock(mutex_);
  for (;;) {
    changed_.wait_until(lock, next, [this] { return stop_ || !heard_.empty(); });
    if (stop_) return;
    std::deque<Heard> heard = std::exchange(heard_, {});
    lock.unlock();
    take_in(std::move(heard));
    if (const auto now = Clock::now(); now >= next) {
      metrics_.progressed(figures());
      if (guard_ != nullptr) guard_->look(metrics_.snapshot(now));
      next = now + interval;
    }
    lock.lock();
  }
}

void Watch::take_in(std::deque<Heard> heard) {
  for (const Heard& h : heard) {
    metrics_.stage_reported(h.report, h.when);
    if (!trace_) continue;
    try {
      trace_->add(h.report, nanoseconds(h.when));
    } catch (const Error& e) {
      log::warning(std::string(e.what()) + "; the job goes on without a trace");
      trace_.reset();
    }
  }
}

JobFigures Watch::figures() const {
  JobFigures figures = job_figures(job_->progress());
  // While the job runs prompt tokens count when they have been run, not when their row was taken up.
  if (options_.interval_seconds > 0) figures.prompt_tokens = metrics_.requests().prompt_tokens();
  return figures;
}

void Watch::stop() {
  world_.control().hear_live_reports({});
  {
    const std::lock_guard lock(mutex_);
    stop_ = true;
  }
  changed_.notify_all();
  if (thread_.joinable()) thread_.join();
}

void Watch::finish(const JobProgress& end, const std::vector<proto::StageReport>& reports) {
  stop();
  take_in(std::exchange(heard_, {}));
  std::deque<Heard> last;
  for (const proto::StageReport& report : reports) last.push_back({report, Clock::now()});
  take_in(std::move(last));
  metrics_.progressed(job_figures(end));
  metrics_.finished();
  if (trace_) finish_trace(reports);
}

void Watch::finish_trace(const std::vector<proto::StageReport>& reports) {
  uint64_t lost = 0;
  for (const proto::StageReport& report : reports) lost += report.lost_events();
  if (lost > 0)
    log::warning("--trace: " + std::to_string(lost) +
                 " stretches of time are missing; a shorter --metrics-interval carries more");
  try {
    trace_->finish();
    log::info("trace: " + options_.trace.string());
  } catch (const Error& e) {
    log::warning(e.what());
  }
  trace_.reset();
}

std::chrono::duration<double> Watch::linger_time() const {
  return std::chrono::duration<double>(server_ ? options_.linger_seconds : 0);
}

std::optional<HttpAnswer> Watch::answer(std::string_view path) const {
  if (path == "/metrics") {
    std::vector<std::string> aliases;
    for (const std::string& alias : options_.aliases) aliases.push_back(alias + ":");
    return HttpAnswer{kPrometheusContentType, prometheus_text(metrics_.snapshot(Clock::now()), aliases)};
  }
  if (path == "/state") return HttpAnswer{"application/json", page_state(metrics_.snapshot(Clock::now()))};
  if (path == "/") return HttpAnswer{"text/html; charset=utf-8", std::string(page_html())};
  return std::nullopt;
}

}  // namespace penstock
