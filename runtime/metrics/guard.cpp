#include "runtime/metrics/guard.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <cstdio>
#include <utility>

#include "runtime/base/error.h"
#include "runtime/metrics/job_metrics.h"

namespace penstock {
namespace {

constexpr size_t kStepsShown = 5;
constexpr double kKvStep = 0.75;
// A former setting is tried again after so many times what it takes to call a goal broken.
constexpr double kTryAfter = 10;

struct GoalKind {
  const char* name;
  const char* meaning;
};
constexpr std::array<GoalKind, 11> kGoals{{
    {"p99_tpot_ms", "99th percentile of requests' mean time per output token"},
    {"p99_itl_ms", "99th percentile of the time between two tokens"},
    {"oom", "forwards that ran out of memory"},
    {"preemptions", "preemptions a minute"},
    {"memory", "share of a device's memory in use"},
    {"busy", "share of time that the busiest stage computes"},
    {"comm", "share of time that a stage spends sending"},
    {"stall_s", "seconds without a token while requests run"},
    {"errors", "share of rows with an error"},
    {"nonfinite", "tokens drawn from logits that were not all numbers"},
    {"kv_error", "rounding error of the KV cache, relative to what it keeps"},
}};

std::string printed(double value) {
  char text[32];
  std::snprintf(text, sizeof text, "%.4g", value);
  return text;
}

double number_of(std::string_view text, std::string_view whole) {
  double value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size() || !(value > 0))
    throw UsageError("--guard " + std::string(whole) + ": expected a number above 0, found '" +
                     std::string(text) + "'");
  return value;
}

std::string known_goals() {
  std::string names;
  for (const GoalKind& goal : kGoals) names += std::string(names.empty() ? "" : ", ") + goal.name;
  return names;
}

/// Broken at once, without waiting: each one is a failure already.
bool counts_failures(const std::string& goal) {
  return goal == "oom" || goal == "nonfinite";
}

bool is_over(const std::string& goal, double value, double limit) {
  if (goal == "busy") return value < limit;
  if (counts_failures(goal)) return value >= limit;
  return value > limit;
}

}  // namespace

GuardOptions parse_guard(std::string_view text) {
  GuardOptions options;
  for (size_t at = 0; at <= text.size();) {
    const size_t comma = std::min(text.find(',', at), text.size());
    const std::string_view item = text.substr(at, comma - at);
    at = comma + 1;
    const size_t equals = item.find('=');
    const std::string name(item.substr(0, equals));
    const bool known =
        std::any_of(kGoals.begin(), kGoals.end(), [&](const GoalKind& g) { return g.name == name; });
    if (equals == std::string_view::npos || (!known && name != "for"))
      throw UsageError("--guard: expected GOAL=LIMIT,... with goals " + known_goals() +
                       ", and for=SECONDS, found '" + std::string(item) + "'");
    const double value = number_of(item.substr(equals + 1), item);
    if (name == "for") {
      options.hold_seconds = value;
      continue;
    }
    for (const GuardOptions::Goal& goal : options.goals)
      if (goal.name == name) throw UsageError("--guard: expected each goal once, found '" + name + "' twice");
    options.goals.push_back({name, value});
  }
  if (options.goals.empty()) throw UsageError("--guard: expected at least one goal of " + known_goals());
  return options;
}

std::string GuardSettings::text() const {
  return "max_num_seqs " + std::to_string(max_num_seqs) + ", max_num_batched_tokens " +
         std::to_string(max_num_batched_tokens) + ", KV blocks " + std::to_string(kv_blocks) +
         (kv_dtype.empty() ? "" : " of " + kv_dtype);
}

Guard::Guard(GuardOptions options, const GuardSettings& start, const GuardSettings& least,
             std::optional<FullPrecision> full)
    : options_(std::move(options)),
      least_(least),
      start_blocks_(start.kv_blocks),
      full_(std::move(full)),
      settings_(start) {
  for (const GuardOptions::Goal& goal : options_.goals) {
    Goal& g = goals_.emplace_back();
    g.figures.name = goal.name;
    g.figures.limit = goal.limit;
  }
}

std::vector<GuardEvent> Guard::look(const JobSnapshot& snapshot) {
  const double now = snapshot.figures.seconds;
  out_of_memory_ = 0;
  nonfinite_ = 0;
  for (const StageSnapshot& stage : snapshot.stages) {
    out_of_memory_ += stage.report.out_of_memory();
    nonfinite_ += stage.report.nonfinite_tokens();
  }
  if (snapshot.figures.generated_tokens != generated_ || snapshot.figures.running == 0) progress_at_ = now;
  generated_ = snapshot.figures.generated_tokens;
  samples_.push_back({now, snapshot.requests.of(RequestHistogram::time_per_output_token),
                      snapshot.requests.of(RequestHistogram::inter_token_latency),
                      snapshot.figures.preemptions});
  while (samples_.size() > 2 && samples_[1].seconds <= now - options_.hold_seconds) samples_.pop_front();

  std::vector<GuardEvent> events;
  for (Goal& goal : goals_) look_at(goal, snapshot, events);
  try_again(now, events);
  return events;
}

std::optional<double> Guard::value_of(const std::string& name, const JobSnapshot& s) const {
  const Sample& first = samples_.front();
  const Sample& last = samples_.back();
  const auto p99_ms = [](const Histogram& h) -> std::optional<double> {
    if (h.count() == 0) return std::nullopt;
    return 1e3 * h.quantile(0.99);
  };
  if (name == "p99_tpot_ms") return p99_ms(last.per_token.since(first.per_token));
  if (name == "p99_itl_ms") return p99_ms(last.between_tokens.since(first.between_tokens));
  if (name == "oom") return static_cast<double>(out_of_memory_ - out_of_memory_before_);
  if (name == "nonfinite") return static_cast<double>(nonfinite_ - nonfinite_before_);
  if (name == "preemptions") {
    if (last.seconds <= first.seconds) return std::nullopt;
    return 60 * static_cast<double>(last.preemptions - first.preemptions) / (last.seconds - first.seconds);
  }
  if (name == "stall_s") return s.figures.seconds - progress_at_;
  if (name == "errors") {
    const int64_t done = s.figures.rows_done - s.figures.rows_resumed;
    if (done == 0) return std::nullopt;
    return static_cast<double>(s.figures.rows_failed - s.figures.failed_resumed) / static_cast<double>(done);
  }
  std::optional<double> most;
  for (const StageSnapshot& stage : s.stages) {
    if (!stage.age_seconds) continue;
    double value = stage.recent.busy;
    if (name == "comm") value = stage.recent.send;
    if (name == "kv_error") {
      if (!stage.report.has_kv_error()) continue;
      value = stage.report.kv_error();
    }
    if (name == "memory") {
      if (stage.report.memory_total_bytes() == 0) continue;
      value = 1 - static_cast<double>(stage.report.memory_free_bytes()) /
                      static_cast<double>(stage.report.memory_total_bytes());
    }
    most = std::max(most.value_or(value), value);
  }
  if (name == "kv_error" && !full_)
    return most.value_or(0);  // nothing is rounded more than the job's dtype does
  return most;
}

void Guard::look_at(Goal& goal, const JobSnapshot& snapshot, std::vector<GuardEvent>& events) {
  GuardGoalFigures& f = goal.figures;
  const double now = snapshot.figures.seconds;
  f.value = value_of(f.name, snapshot);
  if (!f.value) return;  // nothing new to judge by
  using Kind = GuardEvent::Kind;
  const auto tell = [&](Kind kind, const std::string& what) {
    events.push_back({kind, f.name, *f.value, f.limit, f.broken_seconds,
                      f.name + " is " + printed(*f.value) + ", goal " + printed(f.limit) + what});
  };
  if (!is_over(f.name, *f.value, f.limit)) {
    if (f.broken) tell(Kind::holds, ": holds again after " + printed(f.broken_seconds) + " s");
    f.broken = false;
    f.broken_seconds = 0;
    goal = {f, std::nullopt, std::nullopt, false};
    return;
  }
  if (!goal.over_since) goal.over_since = now;
  if (!goal.broken_since) goal.broken_since = now;
  f.broken_seconds = now - *goal.broken_since;
  if (!counts_failures(f.name) && now - *goal.over_since < options_.hold_seconds) return;

  f.broken = true;
  const Lever lever = lever_of(f.name);
  const std::string for_long = counts_failures(f.name) ? "" : ", for " + printed(f.broken_seconds) + " s";
  if (const std::string step = step_back(lever, f.name != "oom"); !step.empty()) {
    ++f.steps;
    tell(Kind::broken, for_long + ": " + step);
    remember(events.back().text);
    goal.told = true;
    changed_at_ = now;
    begin_anew();
  } else if (!goal.told) {
    goal.told = true;
    tell(Kind::broken, for_long + (lever == Lever::none ? "" : "; nothing is left to step back to"));
  }
}

Guard::Lever Guard::lever_of(const std::string& goal) {
  if (goal == "memory") return Lever::kv;
  if (goal == "nonfinite" || goal == "kv_error") return Lever::precision;
  if (goal == "p99_tpot_ms" || goal == "p99_itl_ms" || goal == "oom" || goal == "preemptions")
    return Lever::batch;
  return Lever::none;
}

// In every setting that may still be gone back to: once the cache has been made anew, there is no other.
void Guard::take_full_precision() {
  const auto take = [this](GuardSettings& settings) {
    // Blocks that were withheld stay so, as a share.
    const double share = static_cast<double>(settings.kv_blocks) / static_cast<double>(start_blocks_);
    settings.kv_blocks = std::max(std::min(least_.kv_blocks, full_->kv_blocks),
                                  static_cast<int64_t>(share * static_cast<double>(full_->kv_blocks)));
    settings.kv_dtype = full_->kv_dtype;
  };
  for (GuardSettings& settings : stepped_from_) take(settings);
  if (held_) take(*held_);
  take(settings_);
  full_.reset();
}

std::string Guard::step_back(Lever lever, bool trouble_may_pass) {
  const GuardSettings before = settings_;
  if (lever == Lever::batch && held_) {
    settings_ = *std::exchange(held_, std::nullopt);
    may_try_ = false;
    return "stepping back from " + before.text() + " to the last setting that held, " + settings_.text();
  }
  if (lever == Lever::batch) {
    settings_.max_num_seqs =
        std::max(std::min(least_.max_num_seqs, before.max_num_seqs), before.max_num_seqs / 2);
    settings_.max_num_batched_tokens =
        std::max(std::min(least_.max_num_batched_tokens, before.max_num_batched_tokens),
                 before.max_num_batched_tokens / 2);
  } else if (lever == Lever::kv) {
    const auto smaller = static_cast<int64_t>(kKvStep * static_cast<double>(before.kv_blocks));
    settings_.kv_blocks = std::max(std::min(least_.kv_blocks, before.kv_blocks), smaller);
  }
  if (lever == Lever::precision && full_) take_full_precision();
  if (settings_ == before) return {};
  if (lever == Lever::precision)
    return "stepping back from a KV cache of " + before.kv_dtype + " to one of " + settings_.kv_dtype + ", " +
           settings_.text() + "; rows that are not finished begin anew";
  if (lever == Lever::batch && trouble_may_pass)
    stepped_from_.push_back(before);
  else
    may_try_ = false;
  return "stepping back from " + before.text() + " to " + settings_.text();
}

void Guard::try_again(double now, std::vector<GuardEvent>& events) {
  if (!may_try_ || stepped_from_.empty() || now - changed_at_ < kTryAfter * options_.hold_seconds) return;
  for (const Goal& goal : goals_)
    if (goal.figures.broken || goal.over_since) return;
  held_ = settings_;
  settings_ = stepped_from_.back();
  stepped_from_.pop_back();
  GuardEvent event;
  event.kind = GuardEvent::Kind::trying;
  event.text = "every goal has held for " + printed(now - changed_at_) + " s under " + held_->text() +
               ": trying " + settings_.text() + " again";
  remember(event.text);
  events.push_back(std::move(event));
  changed_at_ = now;
  begin_anew();
}

void Guard::remember(const std::string& step) {
  steps_.insert(steps_.begin(), step);
  if (steps_.size() > kStepsShown) steps_.pop_back();
}

// What was measured before a step says nothing about the settings after it.
void Guard::begin_anew() {
  samples_ = {samples_.back()};
  out_of_memory_before_ = out_of_memory_;
  nonfinite_before_ = nonfinite_;
  for (Goal& goal : goals_) goal.over_since.reset();
}

GuardFigures Guard::figures() const {
  GuardFigures figures;
  for (const Goal& goal : goals_) figures.goals.push_back(goal.figures);
  figures.settings = settings_;
  figures.steps = steps_;
  return figures;
}

}  // namespace penstock
