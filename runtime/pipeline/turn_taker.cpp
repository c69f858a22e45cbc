#include "runtime/pipeline/turn_taker.h"

#include <utility>

namespace penstock {
namespace {

/// What a micro-batch asks for, apart for tokens of prompts and of answers.
struct Loads {
  Load prompts{0, 0, 0};
  Load answers{0, 0, 0};
};

Loads loads_of(const proto::Plan& plan) {
  Loads loads;
  for (const auto& row : plan.rows()) {
    const bool answer = row.tokens_size() == 1;
    Load& load = answer ? loads.answers : loads.prompts;
    load.tokens += row.tokens_size();
    load.rows += row.has_sampling() ? 1 : 0;
    load.rows += row.targets_size();
    if (answer) load.positions += row.start() + 1.0;
  }
  return loads;
}

}  // namespace

TurnTaker::TurnTaker(PlanSource& inner, Partition partition, CutCost cost, std::vector<Slowness> slowness)
    : inner_(inner), partition_(std::move(partition)), cost_(std::move(cost)), owed_(partition_.size(), 0) {
  for (const Slowness& s : slowness) {
    prompts_.push_back(s.prompts);
    answers_.push_back(s.answers);
  }
}

proto::Plan TurnTaker::plan(int slot) {
  proto::Plan plan = inner_.plan(slot);
  if (any_shared(partition_) && !plan.rows().empty()) decide(plan);
  return plan;
}

void TurnTaker::decide(proto::Plan& plan) {
  const Loads loads = loads_of(plan);
  std::vector<StageWork> work = work_by_stage(partition_, cost_, loads.prompts, prompts_);
  const std::vector<StageWork> answers = work_by_stage(partition_, cost_, loads.answers, answers_);
  for (size_t s = 0; s < work.size(); ++s) {
    work[s].own += answers[s].own;
    work[s].first_in_turns += answers[s].first_in_turns;
    work[s].last_in_turns += answers[s].last_in_turns;
  }
  const std::vector<double> of_earlier = even_turns(work).of_earlier;
  for (size_t s = 0; s < partition_.size(); ++s) {
    const StageCut& cut = partition_[s];
    if (!cut.last_in_turns) continue;
    const double turn = work[s].last_in_turns;
    owed_[s] += of_earlier[s] * turn;
    if (owed_[s] < turn / 2) continue;
    owed_[s] -= turn;
    plan.add_run_by_earlier(static_cast<uint32_t>(cut.last_half()));
  }
}

}  // namespace penstock
