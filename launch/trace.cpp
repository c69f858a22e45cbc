// `penstock trace summary`: what a trace says about the pipeline, beside what its schedule would give.
#include "runtime/metrics/trace.h"

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cmath>
#include <cstdio>

#include "launch/commands.h"
#include "runtime/base/error.h"
#include "runtime/pipeline/schedule.h"

namespace penstock {
namespace {

constexpr int kColumns = 44;
constexpr int kWarmUpRounds = 32;  // until a schedule is surely in its steady state

char digit(uint64_t slot) {
  constexpr const char* kDigits = "0123456789abcdefghijklmnopqrstuvwxyz";
  return slot < 36 ? kDigits[slot] : '#';
}

/// One stage's forwards in a window, one character a unit of time: whose forward takes most of it.
class Line {
 public:
  explicit Line(double unit) : unit_(unit), most_(kColumns, 0), text_(kColumns, '.') {}

  void draw(uint64_t slot, double begin, double end) {
    const int first = std::max(0, static_cast<int>(std::floor(begin / unit_)));
    for (int c = first; c < kColumns && c * unit_ < end; ++c) {
      const double inside = std::min(end, (c + 1) * unit_) - std::max(begin, c * unit_);
      if (inside <= most_[static_cast<size_t>(c)] || inside < 0.25 * unit_) continue;
      most_[static_cast<size_t>(c)] = inside;
      text_[static_cast<size_t>(c)] = digit(slot);
    }
  }
  const std::string& text() const { return text_; }

 private:
  double unit_;
  std::vector<double> most_;
  std::string text_;
};

/// Begin of a stretch in the steady state: the middle of the busiest stage's forwards.
double middle_of(const StageTrace& stage) {
  std::vector<double> begins;
  for (const TraceEvent& e : stage.events)
    if (e.activity == proto::ACTIVITY_BUSY) begins.push_back(e.begin);
  return begins.empty() ? 0 : begins[begins.size() / 2];
}

/// Of the replica that the stages from `first` on are.
TimingModel timing_of(const Trace& trace, const std::vector<TimeByCause>& times, size_t first) {
  TimingModel timing;
  timing.processors = trace.processors;
  const size_t stages = times.size() / static_cast<size_t>(trace.replicas);
  for (size_t s = first; s < first + stages; ++s) timing.forward.push_back(times[s].mean_forward);
  return timing;
}

/// Of the busiest stage's replica.
void print_grids(const Trace& trace, const std::vector<TimeByCause>& times, size_t first, size_t busiest,
                 const Schedule& schedule, const TimingModel& timing) {
  const double unit = times[busiest].mean_forward;
  const double from = middle_of(trace.stages[busiest]);
  const std::vector<Span> spans = simulate(schedule, timing, kWarmUpRounds + kColumns);
  const auto middle = std::find_if(spans.begin(), spans.end(), [&](const Span& span) {
    return span.stage == static_cast<int>(busiest - first) &&
           span.step >= kWarmUpRounds * schedule.micro_batches;
  });
  const double own_from = middle == spans.end() ? 0 : middle->begin;
  std::printf("\nforwards, one column %.2f ms, the digit is the slot (step modulo %d):\n%-10s%-*s   %s\n",
              1e3 * unit, trace.micro_batches, "", kColumns, "measured, from the middle of the job",
              "the schedule with these mean forwards");
  for (size_t s = first; s < first + timing.forward.size(); ++s) {
    Line measured(unit);
    for (const TraceEvent& e : trace.stages[s].events)
      if (e.activity == proto::ACTIVITY_BUSY)
        measured.draw(e.step % static_cast<uint64_t>(trace.micro_batches), e.begin - from, e.end - from);
    Line own(unit);
    for (const Span& span : spans)
      if (span.stage == static_cast<int>(s - first))
        own.draw(static_cast<uint64_t>(span.slot), span.begin - own_from, span.end - own_from);
    std::printf("stage %-4zu%s   %s\n", s - first, measured.text().c_str(), own.text().c_str());
  }
}

int print_summary(const std::string& file) {
  const Trace trace = read_trace(file);
  const std::vector<TimeByCause> times = time_by_cause(trace);
  size_t busiest = 0;
  for (size_t s = 0; s < times.size(); ++s)
    if (times[s].busy > times[busiest].busy) busiest = s;
  if (times[busiest].forwards == 0)
    throw UsageError(file + ": expected forwards, found none: nothing ran in this job");

  const size_t stages = times.size() / static_cast<size_t>(trace.replicas);
  const size_t first = busiest / stages * stages;
  const TimingModel timing = timing_of(trace, times, first);
  const std::string replicas =
      trace.replicas > 1 ? std::to_string(trace.replicas) + " replicas of " : std::string();
  std::printf("%s, %s%zu %s, %d micro-batches in flight\n\n", trace.model.c_str(), replicas.c_str(), stages,
              stages == 1 ? "stage" : "stages", trace.micro_batches);
  std::printf("share of the job's time          ---------------- idle, by cause ----------------\n");
  std::printf(
      "%s  forwards  mean ms  max ms   busy    fill   input    plan    send   other   drain  tokens\n",
      trace.replicas > 1 ? " rank" : "stage");
  for (size_t s = 0; s < times.size(); ++s) {
    const TimeByCause& t = times[s];
    const double whole = t.fill + t.busy + t.wait_input + t.wait_plan + t.send + t.other + t.drain;
    const auto share = [whole](double part) { return whole > 0 ? 100 * part / whole : 0; };
    std::printf("%5zu  %8lld  %7.2f %7.2f  %5.1f  %6.1f  %6.1f  %6.1f  %6.1f  %6.1f  %6.1f  %6lld\n", s,
                static_cast<long long>(t.forwards), 1e3 * t.mean_forward, 1e3 * t.longest_forward,
                share(t.busy), share(t.fill), share(t.wait_input), share(t.wait_plan), share(t.send),
                share(t.other), share(t.drain), static_cast<long long>(t.tokens));
  }
  const Schedule schedule = make_generation_schedule(static_cast<int>(stages), trace.micro_batches);
  const TimeByCause& b = times[busiest];
  const double span = b.busy + b.wait_input + b.wait_plan + b.send + b.other;
  std::printf(
      "\nbubble of the busiest stage (%s%zu), between its first forward and its last: %.1f %% measured, %.1f "
      "%% in the schedule\n",
      trace.replicas > 1 ? "rank " : "", busiest, 100 * std::max(0.0, 1 - b.busy / span),
      100 * predicted_bubble(schedule, timing));
  print_grids(trace, times, first, busiest, schedule, timing);
  return 0;
}

}  // namespace

void add_trace(CLI::App& app, Command& chosen) {
  CLI::App* sub =
      app.add_subcommand("trace", "Read a trace that `generate --trace` or `bench pipeline --trace` wrote");
  sub->require_subcommand(1);
  CLI::App* summary =
      sub->add_subcommand("summary", "The measured grid beside the schedule's own, and idle time by cause");
  auto file = std::make_shared<std::string>();
  summary->add_option("file", *file, "The trace")->required();
  summary->callback([file, &chosen] { chosen = [file] { return print_summary(*file); }; });
}

}  // namespace penstock
