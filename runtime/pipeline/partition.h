// Which stage holds what. Plain judgement: no device, no thread, no clock.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace penstock {

/// One stage's share: `layers` decoder layers from `first_layer`, and perhaps the embedding or the head.
struct StageCut {
  bool embedding = false;
  int64_t first_layer = 0;
  int64_t layers = 0;
  bool head = false;
  bool operator==(const StageCut&) const = default;
  std::string text() const;  ///< "embedding", "layers 0-5", "layers 12-17 + head"
};
using Partition = std::vector<StageCut>;

/// What one token costs, in any one unit, on each part of a model.
struct CutCost {
  double embedding = 0;
  std::vector<double> layers;  ///< one a layer
  double head = 0;
};

/// Three stages or more: the first holds the embedding alone, so that the rank which also tokenizes and
/// schedules needs no accelerator, and the layers are spread evenly over the others, the remainder over the
/// earlier ones. Two stages share the layers. Throws UsageError when there are more stages than layers + 2.
Partition default_partition(int64_t layers, int stages);

/// As many layers a stage as `counts` says; the embedding goes to the first stage and the head to the last.
/// Throws UsageError unless there is one count a stage and they add up to `layers`.
Partition partition_by_counts(int64_t layers, int stages, const std::vector<int64_t>& counts);

/// The cut whose most expensive stage is cheapest.
Partition partition_by_cost(int stages, const CutCost& cost);

/// What one token costs on a stage.
double stage_cost(const StageCut& cut, const CutCost& cost);

/// Cost of the dearest stage over the mean: 1 is perfect balance.
double imbalance(const Partition& partition, const CutCost& cost);

/// Reads --layer-partition: "" (the default cut), "auto", or counts such as "0,6,6,6". One layer for each of
/// `cost.layers`.
Partition parse_partition(const std::string& flag, int stages, const CutCost& cost);

}  // namespace penstock
