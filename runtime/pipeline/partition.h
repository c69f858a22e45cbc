// Which stage holds what. Plain judgement: no device, no thread, no clock.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace penstock {

/// One stage's share: `halves` half layers from `first_half`, and perhaps the embedding or the head. Half 2 l
/// is the attention of decoder layer l, half 2 l + 1 its MLP: each adds to the residual stream, so a cut may
/// lie between them as well as between layers.
struct StageCut {
  bool embedding = false;
  int64_t first_half = 0;
  int64_t halves = 0;
  bool head = false;
  bool operator==(const StageCut&) const = default;
  /// "embedding", "layers 0-5", "layers 12-17 + head", "layers 0-7 + attention 8", "MLP 8 + layers 9-16"
  std::string text() const;
};
using Partition = std::vector<StageCut>;

/// What one token costs, in any one unit, on each part of a model.
struct CutCost {
  double embedding = 0;
  std::vector<double> halves;  ///< one a half layer
  double head = 0;
};

/// Three stages or more: the first holds the embedding alone, so that the rank which also tokenizes and
/// schedules needs no accelerator, and the layers are spread evenly over the others, the remainder over the
/// earlier ones. Two stages share the layers. Throws UsageError when there are more stages than layers + 2.
Partition default_partition(int64_t layers, int stages);

/// As many half layers a stage as `halves` says; the embedding goes to the first stage and the head to the
/// last. Throws UsageError unless there is one count a stage and they add up to all of `layers`.
Partition partition_by_halves(int64_t layers, int stages, const std::vector<int64_t>& halves);

/// The cut whose most expensive stage is cheapest, and of those one that cuts few layers. `slowness`: what a
/// unit of cost takes on each stage; empty: the same on all.
Partition partition_by_cost(int stages, const CutCost& cost, const std::vector<double>& slowness = {});
/// As --layer-partition takes it: "8.5,8,8.5,7".
std::string flag_text(const Partition& partition);

/// What one token costs on a stage.
double stage_cost(const StageCut& cut, const CutCost& cost);

/// Cost of the dearest stage over the mean: 1 is perfect balance.
double imbalance(const Partition& partition, const CutCost& cost);

/// Reads --layer-partition: "" (the default cut), "auto", or counts of layers such as "0,6,6,6" or
/// "6.5,6,5.5". Two of `cost.halves` for each layer; `slowness` is for "auto".
Partition parse_partition(const std::string& flag, int stages, const CutCost& cost,
                          const std::vector<double>& slowness = {});

}  // namespace penstock
