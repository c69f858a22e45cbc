#include "runtime/pipeline/schedule.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <queue>
#include <string_view>

#include "runtime/base/error.h"

namespace penstock {
namespace {

constexpr double kNotYet = std::numeric_limits<double>::infinity();

Program first_stage_program(int stages, int micro_batches) {
  Program p;
  auto forward = [&](std::vector<Action>& to, int slot) {
    to.push_back({0, ActionKind::forward, slot});
    if (stages > 1) to.push_back({0, ActionKind::send, slot});
  };
  for (int m = 0; m < micro_batches; ++m) forward(p.warm_up, m);
  for (int m = 0; m < micro_batches; ++m) {
    p.steady.push_back({0, ActionKind::take_in, m});
    forward(p.steady, m);
  }
  for (int m = 0; m < micro_batches; ++m) p.cooldown.push_back({0, ActionKind::take_in, m});
  return p;
}

Program later_stage_program(int stage, int stages, int micro_batches, bool look_ahead) {
  Program p;
  if (look_ahead) p.warm_up.push_back({stage, ActionKind::post_receive, 0});
  for (int m = 0; m < micro_batches; ++m) {
    const int posted = look_ahead ? (m + 1) % micro_batches : m;
    p.steady.push_back({stage, ActionKind::post_receive, posted});
    p.steady.push_back({stage, ActionKind::forward, m});
    p.steady.push_back({stage, stage + 1 < stages ? ActionKind::send : ActionKind::give_back, m});
  }
  return p;
}

/// A finite run of the schedule: the first stage's warm-up is round 0, so it repeats its steady part once
/// less.
std::vector<std::vector<Action>> unroll(const Schedule& schedule, int rounds) {
  std::vector<std::vector<Action>> all;
  for (int s = 0; s < schedule.stages; ++s) {
    const Program& p = schedule.programs[static_cast<size_t>(s)];
    std::vector<Action> actions = p.warm_up;
    for (int r = s == 0 ? 1 : 0; r < rounds; ++r)
      actions.insert(actions.end(), p.steady.begin(), p.steady.end());
    actions.insert(actions.end(), p.cooldown.begin(), p.cooldown.end());
    all.push_back(std::move(actions));
  }
  // The look-ahead of the last round posts a receive that the end of the run withdraws.
  if (schedule.look_ahead)
    for (size_t s = 1; s < all.size(); ++s) {
      auto last = std::find_if(all[s].rbegin(), all[s].rend(),
                               [](const Action& a) { return a.kind == ActionKind::post_receive; });
      all[s].erase(std::next(last).base());
    }
  return all;
}

/// Plays a finite run by the clock. An action's step is how often its stage did that kind of action before.
class Play {
 public:
  Play(const Schedule& schedule, const TimingModel& timing, int rounds)
      : schedule_(schedule),
        timing_(timing),
        steps_(rounds * schedule.micro_batches),
        programs_(unroll(schedule, rounds)),
        next_(programs_.size(), 0),
        clock_(programs_.size(), 0),
        done_(programs_.size()) {
    for (auto& kinds : done_) kinds.fill(0);
    planned_.assign(static_cast<size_t>(steps_), kNotYet);
    returned_.assign(static_cast<size_t>(steps_), kNotYet);
    arrived_.assign(programs_.size(), std::vector<double>(static_cast<size_t>(steps_), kNotYet));
  }

  std::vector<Span> run() {
    // Always the action that can start first, so that shared processors are handed out in order of time.
    for (;;) {
      size_t best = programs_.size();
      double best_start = kNotYet;
      for (size_t s = 0; s < programs_.size(); ++s) {
        const double start = next_[s] < programs_[s].size() ? start_of(s) : kNotYet;
        if (start < best_start) {
          best_start = start;
          best = s;
        }
      }
      if (best == programs_.size()) break;
      perform(best, best_start);
    }
    check_finished();
    return std::move(spans_);
  }

 private:
  static size_t index(ActionKind kind) {
    switch (kind) {
      case ActionKind::post_receive:
        return 0;
      case ActionKind::forward:
        return 1;
      case ActionKind::send:
        return 2;
      case ActionKind::give_back:
        return 3;
      case ActionKind::take_in:
        return 4;
    }
    return 0;
  }

  /// When the next action of stage s can start; kNotYet while what it waits for has not happened.
  double start_of(size_t s) const {
    const Action& a = programs_[s][next_[s]];
    const auto step = static_cast<size_t>(done_[s][index(a.kind)]);
    if (step >= static_cast<size_t>(steps_)) return kNotYet;
    double start = clock_[s];
    switch (a.kind) {
      case ActionKind::post_receive:
        // A receive is as long as the plan says, so posting waits for the plan.
        start = std::max(start, planned_[step]);
        break;
      case ActionKind::forward:
        if (s > 0) {
          if (done_[s][index(ActionKind::post_receive)] <= static_cast<int>(step)) return kNotYet;
          start = std::max(start, arrived_[s][step]);
        }
        if (!processor_free_.empty()) start = std::max(start, processor_free_.top());
        break;
      case ActionKind::take_in:
        start = std::max(start, schedule_.stages == 1 ? clock_[s] : returned_[step]);
        break;
      case ActionKind::send:
      case ActionKind::give_back:
        break;
    }
    return start;
  }

  void perform(size_t s, double start) {
    const Action& a = programs_[s][next_[s]++];
    const int step = done_[s][index(a.kind)]++;
    if (a.slot != step % schedule_.micro_batches)
      throw Error("schedule: " + a.text() + " comes out of order, expected slot " +
                  std::to_string(step % schedule_.micro_batches));
    clock_[s] = start;
    switch (a.kind) {
      case ActionKind::forward: {
        const double end = start + timing_.forward[s];
        spans_.push_back({a.stage, a.slot, step, start, end});
        clock_[s] = end;
        if (s == 0) planned_[static_cast<size_t>(step)] = start;
        if (timing_.processors > 0) {
          if (!processor_free_.empty() && processor_free_.size() == static_cast<size_t>(timing_.processors))
            processor_free_.pop();
          processor_free_.push(end);
          while (processor_free_.size() < static_cast<size_t>(timing_.processors)) processor_free_.push(0);
        }
        break;
      }
      case ActionKind::send:
        arrived_[s + 1][static_cast<size_t>(step)] = start + timing_.hop;
        break;
      case ActionKind::give_back:
        returned_[static_cast<size_t>(step)] = start + timing_.way_back;
        break;
      case ActionKind::post_receive:
      case ActionKind::take_in:
        break;
    }
  }

  void check_finished() const {
    std::string stuck;
    for (size_t s = 0; s < programs_.size(); ++s)
      if (next_[s] < programs_[s].size()) stuck += " " + programs_[s][next_[s]].text();
    if (!stuck.empty()) throw Error("schedule: would wait for ever at" + stuck);
    for (size_t s = 1; s < programs_.size(); ++s)
      if (done_[s - 1][index(ActionKind::send)] != done_[s][index(ActionKind::post_receive)])
        throw Error("schedule: stage " + std::to_string(s - 1) + " sends " +
                    std::to_string(done_[s - 1][index(ActionKind::send)]) + " times, stage " +
                    std::to_string(s) + " receives " +
                    std::to_string(done_[s][index(ActionKind::post_receive)]) + " times");
  }

  const Schedule& schedule_;
  const TimingModel& timing_;
  int steps_;
  std::vector<std::vector<Action>> programs_;
  std::vector<size_t> next_;
  std::vector<double> clock_;
  std::vector<std::array<int, 5>> done_;  // by stage and kind
  std::vector<double> planned_;           // by step
  std::vector<double> returned_;
  std::vector<std::vector<double>> arrived_;  // by stage and step
  std::priority_queue<double, std::vector<double>, std::greater<>> processor_free_;
  std::vector<Span> spans_;
};

}  // namespace

std::string Action::text() const {
  return std::to_string(stage) + static_cast<char>(kind) + std::to_string(slot);
}

int default_micro_batches(int stages, bool oversubscribed) {
  if (stages == 1) return 1;
  return oversubscribed ? 2 * stages : stages + 1;
}

Schedule make_generation_schedule(int stages, int micro_batches) {
  if (stages < 1 || micro_batches < 1)
    throw UsageError("a schedule needs at least one stage and one micro-batch in flight, found " +
                     std::to_string(stages) + " and " + std::to_string(micro_batches));
  Schedule schedule{stages, micro_batches, stages > 1 && micro_batches >= stages, {}};
  schedule.programs.push_back(first_stage_program(stages, micro_batches));
  for (int s = 1; s < stages; ++s)
    schedule.programs.push_back(later_stage_program(s, stages, micro_batches, schedule.look_ahead));
  validate(schedule);
  return schedule;
}

void validate(const Schedule& schedule, int rounds) {
  const TimingModel unit{std::vector<double>(static_cast<size_t>(schedule.stages), 1.0)};
  Play(schedule, unit, rounds).run();
}

std::vector<Span> simulate(const Schedule& schedule, const TimingModel& timing, int rounds) {
  ensure(timing.forward.size() == static_cast<size_t>(schedule.stages), "one forward time a stage");
  return Play(schedule, timing, rounds).run();
}

double predicted_bubble(const Schedule& schedule, const TimingModel& timing) {
  const auto dearest = std::max_element(timing.forward.begin(), timing.forward.end());
  if (*dearest <= 0) return 0;
  const int stage = static_cast<int>(dearest - timing.forward.begin());
  // Far from both ends: the middle third of a long run.
  const int rounds = 30;
  std::vector<Span> spans = simulate(schedule, timing, rounds);
  std::erase_if(spans, [&](const Span& s) { return s.stage != stage; });
  const size_t from = spans.size() / 3;
  const size_t to = 2 * spans.size() / 3;
  const double time = spans[to].begin - spans[from].begin;
  return std::max(0.0, 1 - static_cast<double>(to - from) * *dearest / time);
}

std::string grid(const Schedule& schedule, int columns) {
  const TimingModel unit{std::vector<double>(static_cast<size_t>(schedule.stages), 1.0)};
  const int rounds = 2 + columns / schedule.micro_batches;
  std::vector<std::string> lines(static_cast<size_t>(schedule.stages),
                                 std::string(static_cast<size_t>(columns), '.'));
  for (const Span& span : simulate(schedule, unit, rounds)) {
    const auto column = static_cast<size_t>(std::lround(span.begin));
    if (column >= static_cast<size_t>(columns)) continue;
    constexpr std::string_view kDigits = "0123456789abcdefghijklmnopqrstuvwxyz";
    lines[static_cast<size_t>(span.stage)][column] = kDigits[static_cast<size_t>(span.slot) % kDigits.size()];
  }
  std::string text;
  for (size_t s = 0; s < lines.size(); ++s) text += "stage " + std::to_string(s) + "  " + lines[s] + "\n";
  return text;
}

}  // namespace penstock
