// Decides for each micro-batch which of two stages runs the MLP that they share: a prompt's tokens want no
// logits and read little cache, so a cut that is even for answers is not for prompts, nor for GPUs of which
// one is a little slower. Plain judgement; on the first stage's rank.
#pragma once

#include <vector>

#include "runtime/pipeline/cut_cost.h"
#include "runtime/pipeline/runner.h"

namespace penstock {

/// What a unit of CutCost takes on a stage.
struct Slowness {
  double prompts = 1;
  double answers = 1;
};

class TurnTaker final : public PlanSource {
 public:
  /// `slowness` by stage; `inner` must outlive it. Where no MLP is shared it only passes on.
  TurnTaker(PlanSource& inner, Partition partition, CutCost cost, std::vector<Slowness> slowness);

  proto::Plan plan(int slot) override;
  void take_in(int slot, const proto::StepResult& result) override { inner_.take_in(slot, result); }
  bool finished_or_wait() override { return inner_.finished_or_wait(); }

 private:
  void decide(proto::Plan& plan);

  PlanSource& inner_;
  Partition partition_;
  CutCost cost_;
  std::vector<double> prompts_, answers_;  // slowness, by stage
  std::vector<double> owed_;               // work, to the earlier stage of each boundary
};

}  // namespace penstock
