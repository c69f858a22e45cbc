// What the parts of a model cost, and what a stage of a cut costs by that. Plain judgement: no device, no
// thread, no clock.
#pragma once

#include <vector>

#include "runtime/pipeline/partition.h"

namespace penstock {

/// What a micro-batch asks for.
struct Load {
  double tokens = 1;
  double rows = 1;       ///< whose logits are wanted
  double positions = 0;  ///< of the cache, that its rows read in each layer
};

/// In any one unit.
struct CutCost {
  double embedding = 0;               ///< a token
  std::vector<double> halves;         ///< a token, one a half layer
  double head = 0;                    ///< a row
  std::vector<bool> may_be_shared{};  ///< one a half layer: an MLP that is small enough to be held twice
  std::vector<double> cache{};        ///< a position, one a half layer; empty: nothing
  bool cache_is_short = false;        ///< it limits how many sequences run
  /// A job's phases follow each other, and each takes as long as its dearest stage does.
  std::vector<Load> phases = std::vector<Load>(1);
};

/// What a load costs on one stage.
struct StageWork {
  double own = 0;
  double first_in_turns = 0;  ///< more, where it runs the MLP that it shares with the stage before; 0: none
  double last_in_turns = 0;   ///< more, where it runs the one that it shares with the stage behind
};

/// `slowness`: what a unit of cost takes on each stage; empty: the same on all.
std::vector<StageWork> work_by_stage(const Partition& partition, const CutCost& cost, const Load& load,
                                     const std::vector<double>& slowness = {});

/// How two stages should take turns with the MLP that they share.
struct EvenTurns {
  double dearest = 0;              ///< stage, in the mean of many such micro-batches
  std::vector<double> of_earlier;  ///< by stage: its share of the turns with the stage behind it, 0 to 1
};
/// Shares that make the dearest stage as cheap as can be.
EvenTurns even_turns(const std::vector<StageWork>& work);

/// What all phases take, with even turns.
struct JobCost {
  double together = 0;           ///< of the dearest stage of each phase
  std::vector<double> by_stage;  ///< of each stage for itself
};
JobCost job_cost(const Partition& partition, const CutCost& cost, const std::vector<double>& slowness = {});

/// What a job takes over what it would with stages that are all alike: 1 is perfect balance.
double imbalance(const Partition& partition, const CutCost& cost);

/// The cut whose job costs least; of those about alike one that shares few MLPs, which cost memory twice,
/// and cuts few layers: each shared MLP gains at least 0.3 %. A cache that is short is spread evenly, too.
/// Found by looking around the cheapest cuts for all phases at once: where there is one phase and nothing to
/// share that is the answer.
Partition partition_by_cost(int stages, const CutCost& cost, const std::vector<double>& slowness = {});

}  // namespace penstock
