// Order is data: what every stage does, as lists of actions, generated, checked and drawn before anything
// runs. Plain judgement: no device, no thread, no clock. The runner interprets it (runner.h).
//
// Generation in 1F1B: F is the forward of a micro-batch; B takes in one that came back (the sampled tokens
// are the way back, from the last stage to the first). Legend: S stages, M micro-batches in flight; step k
// runs in slot k mod M.
#pragma once

#include <string>
#include <vector>

namespace penstock {

enum class ActionKind : char {
  post_receive = 'P',  ///< be ready for the hidden states of a micro-batch before they are needed
  forward = 'F',
  send = 'S',       ///< hidden states to the next stage
  give_back = 'G',  ///< sampled tokens from the last stage to the first
  take_in = 'B',    ///< the first stage learns the tokens of a micro-batch and may plan its slot anew
};

struct Action {
  int stage = 0;
  ActionKind kind{};
  int slot = 0;
  std::string text() const;  ///< "2F0": stage 2, forward, slot 0
};

/// What one stage does: warm_up once, steady over and over, cooldown once. Every steady part touches each
/// slot once, in order.
struct Program {
  std::vector<Action> warm_up;
  std::vector<Action> steady;
  std::vector<Action> cooldown;
};

struct Schedule {
  int stages = 1;
  int micro_batches = 1;
  bool look_ahead = false;        ///< the next receive is posted before the current forward
  std::vector<Program> programs;  ///< by stage
};

/// The default number of micro-batches in flight: 1 for one stage; S + 1 where stages have processors of
/// their own; 2 S where they share them, so that a stage that loses its core for a while starves nobody.
int default_micro_batches(int stages, bool oversubscribed);

/// Generates and validates. Look-ahead is used from S micro-batches on: with fewer it could hang.
/// Throws UsageError unless stages and micro-batches are at least 1.
Schedule make_generation_schedule(int stages, int micro_batches);

/// Plays `rounds` rounds and throws Error when a stage would wait for ever, a receive has no send or a send
/// no receive, or slots are taken in out of order. The message names the stages and actions that are stuck.
void validate(const Schedule& schedule, int rounds = 3);

/// How long things take, in any one unit.
struct TimingModel {
  std::vector<double> forward;  ///< by stage
  double hop = 0;               ///< hidden states from one stage to the next
  double way_back = 0;          ///< tokens from the last stage to the first
  int processors = 0;           ///< stages that can compute at once; 0: all of them
};

/// One forward on the time line.
struct Span {
  int stage = 0;
  int slot = 0;
  int step = 0;
  double begin = 0;
  double end = 0;
};

/// When each forward runs, over `rounds` rounds.
std::vector<Span> simulate(const Schedule& schedule, const TimingModel& timing, int rounds);

/// Share of the busiest stage's time that it stands idle in the steady state: 0 is a full pipeline.
double predicted_bubble(const Schedule& schedule, const TimingModel& timing);

/// A picture, one line a stage and one column a unit of time: which slot's forward runs when, '.' for idle.
std::string grid(const Schedule& schedule, int columns);

}  // namespace penstock
