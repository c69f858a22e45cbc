#include "launch/progress.h"

#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>

#include "launch/expert_memory.h"
#include "runtime/base/log.h"

namespace penstock {
namespace {

template <class... Args>
std::string printed(const char* format, Args... args) {
  char text[512];
  std::snprintf(text, sizeof text, format, args...);
  return text;
}

std::string duration(double seconds) {
  if (seconds < 60) return printed("%.0f s", seconds);
  if (seconds < 3600) return printed("%.0f m %02.0f s", std::floor(seconds / 60), std::fmod(seconds, 60));
  return printed("%.0f h %02.0f m", std::floor(seconds / 3600), std::floor(std::fmod(seconds, 3600) / 60));
}

std::string bytes_text(double bytes) {
  if (bytes < 1e9) return printed("%.0f MiB", bytes / (1 << 20));
  return printed("%.1f GiB", bytes / (1 << 30));
}

std::string fitted(const std::string& text, size_t width) {
  if (text.size() <= width) return text + std::string(width - text.size(), ' ');
  return text.substr(0, width - 1) + "~";
}

double share(double part, double whole) {
  return whole > 0 ? 100 * part / whole : 0;
}

/// The bubble that was measured, idle time of the busiest stage between its first forward and its last, and
/// the one that the schedule itself has with the mean forward times of that stage's replica.
std::pair<double, double> bubbles(const std::vector<proto::StageReport>& reports, const ReadyRank& ready) {
  const auto busiest = std::max_element(reports.begin(), reports.end(), [](const auto& a, const auto& b) {
    return a.busy_seconds() < b.busy_seconds();
  });
  const double measured =
      busiest->span_seconds() > 0 ? std::max(0.0, 1 - busiest->busy_seconds() / busiest->span_seconds()) : 0;
  const Layout& layout = ready.shape.layout;
  const int first = layout.first_rank(layout.replica_of(static_cast<int>(busiest - reports.begin())));
  TimingModel timing;
  timing.processors = ready.processors;
  for (int s = 0; s < layout.stages; ++s) {
    const proto::StageReport& r = reports[static_cast<size_t>(first + s)];
    const auto count = static_cast<double>(std::max<uint64_t>(1, r.micro_batches()));
    timing.forward.push_back(r.busy_seconds() / count);
  }
  return {measured, predicted_bubble(ready.shape.schedule, timing)};
}

size_t terminal_columns() {
  winsize size{};
  return ioctl(STDERR_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 1 ? size.ws_col : 80;
}

}  // namespace

JobFigures job_figures(const JobProgress& progress) {
  JobFigures f;
  f.seconds = progress.seconds;
  f.rows_done = progress.rows_done;
  f.rows_failed = progress.rows_failed;
  f.rows_resumed = progress.rows_resumed;
  f.failed_resumed = progress.failed_resumed;
  f.prompt_tokens = progress.prompt_tokens;
  f.generated_tokens = progress.generated_tokens;
  f.running = progress.running;
  f.waiting = progress.waiting;
  f.preemptions = progress.preemptions;
  f.kv_used_share = progress.kv_used_share;
  const auto read = static_cast<double>(progress.rows_read);
  if (progress.input_ended)
    f.rows_expected = read;
  else if (progress.input_share_read > 0)
    f.rows_expected = std::round(read / progress.input_share_read);
  const auto left = f.rows_expected ? *f.rows_expected - static_cast<double>(progress.rows_done) : 0;
  const auto done = static_cast<double>(progress.rows_done - progress.rows_resumed);
  if (f.rows_expected && done > 0) f.eta_seconds = std::max(0.0, left) * f.seconds / done;
  return f;
}

std::string progress_line(const JobFigures& now, const JobFigures& before) {
  const double seconds = std::max(1e-9, now.seconds - before.seconds);
  const auto rate = [&](int64_t n, int64_t old) { return static_cast<double>(n - old) / seconds; };
  std::string line = printed("rows %lld", static_cast<long long>(now.rows_done));
  if (now.rows_expected)
    line += printed(" of about %.0f (%.0f %%)", *now.rows_expected,
                    share(static_cast<double>(now.rows_done), *now.rows_expected));
  line += printed(", %.1f rows/s", rate(now.rows_done, before.rows_done));
  if (now.eta_seconds) line += ", ETA " + duration(*now.eta_seconds);
  line += printed(
      ", Avg prompt throughput: %.1f tokens/s, Avg generation throughput: %.1f tokens/s, Running: %lld reqs, "
      "Waiting: %lld reqs, KV cache usage: %.1f %%",
      rate(now.prompt_tokens, before.prompt_tokens), rate(now.generated_tokens, before.generated_tokens),
      static_cast<long long>(now.running), static_cast<long long>(now.waiting), 100 * now.kv_used_share);
  if (now.rows_failed > 0)
    line += printed(", %lld rows with errors", static_cast<long long>(now.rows_failed));
  return line;
}

std::string closing_summary(const JobProgress& end, const std::vector<proto::StageReport>& reports,
                            const ReadyRank& ready, const std::string& results) {
  std::string text = printed("%lld rows in %s", static_cast<long long>(end.rows_done - end.rows_resumed),
                             duration(end.seconds).c_str());
  text += printed(" (%lld with errors)", static_cast<long long>(end.rows_failed - end.failed_resumed));
  if (end.rows_resumed > 0)
    text += printed(", %lld before (%lld)", static_cast<long long>(end.rows_resumed),
                    static_cast<long long>(end.failed_resumed));
  text += printed(": %.1f rows/s, prompt %.0f tok/s, output %.0f tok/s",
                  static_cast<double>(end.rows_done - end.rows_resumed) / end.seconds,
                  static_cast<double>(end.prompt_tokens) / end.seconds,
                  static_cast<double>(end.generated_tokens) / end.seconds);
  text += printed("\n%lld prompt tokens, %lld output tokens", static_cast<long long>(end.prompt_tokens),
                  static_cast<long long>(end.generated_tokens));
  if (end.first_row_seconds) text += printed(", first row after %.1f s", *end.first_row_seconds);
  text += printed(", %lld preemptions\n", static_cast<long long>(end.preemptions));
  if (end.rows_renewed > 0)
    text += printed(
        "%lld of these rows were computed in %s, after the guard's step: their system_fingerprint says so\n",
        static_cast<long long>(end.rows_renewed), ready.full_numerics.c_str());
  text += '\n';

  const Layout& layout = ready.shape.layout;
  if (layout.replicas > 1) text += "replica  ";
  text +=
      "stage  part                 host           busy   input    plan    send  micro-batches  tokens each  "
      "weights        KV  peak memory\n";
  for (size_t s = 0; s < reports.size(); ++s) {
    const proto::StageReport& r = reports[s];
    const double whole = r.busy_seconds() + r.wait_input_seconds() + r.wait_plan_seconds() + r.send_seconds();
    const int rank = static_cast<int>(s);
    if (layout.replicas > 1) text += printed("%7d  ", layout.replica_of(rank));
    text += printed(
        "%5d  %s %s %5.1f %%  %4.1f %%  %4.1f %%  %4.1f %%  %13llu  %11.1f  %7s  %8s  %11s\n",
        layout.stage_of(rank), fitted(ready.facts[s].part, 20).c_str(),
        fitted(ready.facts[s].host, 12).c_str(), share(r.busy_seconds(), whole),
        share(r.wait_input_seconds(), whole), share(r.wait_plan_seconds(), whole),
        share(r.send_seconds(), whole), static_cast<unsigned long long>(r.micro_batches()),
        static_cast<double>(r.tokens()) / static_cast<double>(std::max<uint64_t>(1, r.micro_batches())),
        bytes_text(static_cast<double>(r.weight_bytes())).c_str(),
        bytes_text(static_cast<double>(r.kv_bytes())).c_str(),
        bytes_text(static_cast<double>(r.peak_resident_bytes())).c_str());
  }
  for (size_t s = 0; s < reports.size(); ++s) {
    const proto::StageReport& r = reports[s];
    if (ready.facts[s].device.rfind("cuda", 0) != 0) continue;
    text += printed(
        "%s on %s: %s of %s reserved (%.1f %%), %s in use, %s in pieces (%.1f %% of what is free)\n",
        stage_name(layout, static_cast<int>(s)).c_str(), ready.facts[s].device.c_str(),
        bytes_text(static_cast<double>(r.memory_reserved_bytes())).c_str(),
        bytes_text(static_cast<double>(r.memory_total_bytes())).c_str(),
        share(static_cast<double>(r.memory_reserved_bytes()), static_cast<double>(r.memory_total_bytes())),
        bytes_text(static_cast<double>(r.memory_used_bytes())).c_str(),
        bytes_text(static_cast<double>(r.memory_fragmented_bytes())).c_str(),
        share(static_cast<double>(r.memory_fragmented_bytes()),
              static_cast<double>(r.memory_reserved_bytes() - r.memory_used_bytes())));
  }
  text += experts_text(reports, layout, ready.weights != nullptr);
  if (!reports.empty() && layout.stages > 1) {
    const auto [measured, predicted] = bubbles(reports, ready);
    text += printed(
        "bubble of the busiest stage: %.1f %% measured, %.1f %% in the schedule (%d micro-batches in "
        "flight)\n",
        100 * measured, 100 * predicted, ready.shape.schedule.micro_batches);
  }
  return text + "results: " + results;
}

Progress::Progress(std::function<JobFigures()> figures, double seconds_between_lines)
    : figures_(std::move(figures)), terminal_(isatty(STDERR_FILENO) != 0 && !log::is_json()) {
  const double seconds = seconds_between_lines > 0 ? seconds_between_lines : terminal_ ? 1 : 60;
  thread_ = std::thread([this, seconds] { print_until_stopped(seconds); });
}

Progress::~Progress() {
  {
    const std::lock_guard lock(mutex_);
    stop_ = true;
  }
  stop_changed_.notify_all();
  thread_.join();
}

void Progress::print_until_stopped(double seconds) {
  JobFigures before = figures_();
  std::unique_lock lock(mutex_);
  while (!stop_changed_.wait_for(lock, std::chrono::duration<double>(seconds), [this] { return stop_; })) {
    const JobFigures now = figures_();
    const std::string line = progress_line(now, before);
    if (terminal_)  // a line that wraps could not be written over
      std::fprintf(stderr, "\r\033[K%s", line.substr(0, terminal_columns() - 1).c_str());
    else
      log::info(line);
    before = now;
  }
  if (terminal_) std::fprintf(stderr, "\r\033[K");
}

}  // namespace penstock
