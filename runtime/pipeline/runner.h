// Plays one stage's program of the schedule: one switch over actions. The same code for one rank and for
// many, over whatever channels the world has. Runs on the rank's main thread; nothing else touches the stage.
//
// A GPU is asked for the next forward before it is through with the last one, so that the host's work (plans,
// tokens, transfers) costs it no time: at most kAskedAhead forwards are under way. They are settled in order,
// as soon as the thread has nothing else to do: only then are a forward's tokens given back. Where a forward
// is done when it returns, as on a CPU, all this is one step.
#pragma once

#include <deque>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "runtime/comm/world.h"
#include "runtime/metrics/stage_meter.h"
#include "runtime/pipeline/schedule.h"
#include "runtime/pipeline/stage.h"

namespace penstock {

/// Where the first stage's plans come from and where sampled tokens go: the scheduler behind it. Called on
/// the runner's thread.
class PlanSource {
 public:
  virtual ~PlanSource() = default;
  /// The next micro-batch for `slot`, whose last one has been taken in; no rows when nothing can run now.
  virtual proto::Plan plan(int slot) = 0;
  virtual void take_in(int slot, const proto::StepResult& result) = 0;
  /// True once no plan will ever have rows again. Asked when nothing is in flight and nothing could be
  /// planned; sleeps until there is something new.
  virtual bool finished_or_wait() = 0;
};

struct RunnerOptions {
  int stage = 0;
  int first_rank = 0;      ///< rank of stage 0; stage s is rank first_rank + s
  int64_t max_tokens = 0;  ///< the largest micro-batch
  bool trace = false;      ///< the meter keeps every stretch of time
};

/// Where hidden states come from and go to: null on the first and on the last stage.
struct RunnerEdges {
  std::unique_ptr<Receiver> in;
  std::unique_ptr<Sender> out;
};

class Runner {
 public:
  /// `source` is for the first stage, null elsewhere; messages of `edges` are memory of `device`. All
  /// references must outlive the runner. `schedule` must be the same on every stage.
  Runner(Stage& stage, Device& device, World& world, RunnerEdges edges, const Schedule& schedule,
         const RunnerOptions& options, PlanSource* source);
  /// Device memory that the constructor takes for hidden states on their way.
  static size_t buffer_bytes(const Stage& stage, const Schedule& schedule, const RunnerOptions& options);

  /// Returns when the job is done, with what this stage did with its time. Throws what broke;
  /// current_action() then says where.
  proto::StageReport run();

  /// "2F0, step 17": for the message of a failure.
  std::string current_action() const;

  /// What this stage does with its time, to be asked while it runs. Any thread.
  StageMeter& meter() { return meter_; }

 private:
  struct Slot {
    std::optional<proto::Plan> plan;  // the micro-batch under way
    Tensor in_TD;
    Tensor out_TD;
    TransferPtr receiving;
    TransferPtr sending;
  };

  /// A forward that the device was asked for.
  struct Forward {
    int slot = 0;
    uint64_t step = 0;
    int64_t tokens = 0;
    std::unique_ptr<Moment> end;  // null: it is done
    DrawingPtr drawing;           // null: it draws nothing
  };
  class IdleWatch;

  void play(const std::vector<Action>& actions);
  void post_receive(uint64_t step);
  void forward(Slot& slot, int slot_index, uint64_t step);
  void send(Slot& slot, uint64_t step);
  void take_in(Slot& slot, int slot_index);
  void give_back(Slot& slot, proto::StepResult result);
  void settle_oldest();
  template <class Ready>
  void settle_until(Ready ready);
  void start_receive(Slot& slot, const proto::Plan& plan);
  void take_messages();
  void wait_for_plan();
  void store(ControlMessage message);
  bool idle() const;

  Stage& stage_;
  Device& device_;
  World& world_;
  const Schedule& schedule_;
  RunnerOptions options_;
  PlanSource* source_;
  RunnerEdges edges_;
  std::vector<Slot> slots_;
  std::vector<uint64_t> step_of_kind_;     // how often each kind of action has been played
  std::deque<proto::Plan> known_plans_;    // received, not begun; oldest first
  std::deque<Forward> under_way_;          // oldest first
  std::deque<proto::StepResult> results_;  // of the first stage: tokens that came back, not taken in
  bool finished_ = false;
  Action current_{};
  uint64_t current_step_ = 0;
  StageMeter meter_;
};

}  // namespace penstock
