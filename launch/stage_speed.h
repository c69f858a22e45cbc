// How fast each stage is on its device, for the turns of stages that share an MLP.
#pragma once

#include <vector>

#include "launch/rank_job.h"
#include "runtime/pipeline/turn_taker.h"
#include "stages/build_stage.h"

namespace penstock {

/// What a unit of the job's CutCost takes on this rank's stage: times long prefills and full decode steps of
/// made-up tokens, everything that the stage holds included. The stage has been warmed up, and has `blocks`
/// of cache; what this leaves there is written over before it is read.
Slowness measure_slowness(Stage& stage, Device& device, const StageSpec& spec, const JobShape& shape,
                          int64_t blocks, int rank);

/// Every rank's, in order of ranks, where some MLP is shared and each GPU is one rank's; elsewhere all are
/// alike. Collective, once every stage has its cache.
std::vector<Slowness> agree_on_slowness(World& world, const ReadyRank& ready, const StageSpec& spec,
                                        bool gpus_are_shared);

/// Of the stages of this rank's replica.
std::vector<Slowness> slowness_of_replica(const ReadyRank& ready, int rank);

}  // namespace penstock
