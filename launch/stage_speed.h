// How fast each stage is on its device, for the turns of stages that share an MLP.
#pragma once

#include <memory>

#include "launch/rank_job.h"
#include "runtime/pipeline/turn_taker.h"
#include "stages/build_stage.h"

namespace penstock {

/// What a unit of the job's CutCost takes on this rank's stage: times a long prefill and a full decode step
/// of made-up tokens, everything that the stage holds included. The stage has been warmed up, and has at
/// least warm_up_blocks of cache; what this leaves there is written over before it is read.
Slowness measure_slowness(Stage& stage, Device& device, const StageSpec& spec, const JobShape& shape,
                          int rank);

/// Every rank's, in order of ranks, where some MLP is shared and some stage has a GPU; elsewhere all are
/// alike. Collective.
std::vector<Slowness> agree_on_slowness(World& world, const JobShape& shape, Stage& stage, Device& device,
                                        const StageSpec& spec);

/// Puts the turns of this rank's replica into the plans of `source`, which must outlive it. Null where no MLP
/// is shared, or where `source` is null.
std::unique_ptr<TurnTaker> take_turns(PlanSource* source, const ReadyRank& ready, int rank);

}  // namespace penstock
