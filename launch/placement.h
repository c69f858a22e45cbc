// Which stage computes on what: --device, and one of the host's GPUs for each rank that wants one. Plain
// judgement.
#pragma once

#include <string>
#include <vector>

#include "runtime/device/device.h"
#include "runtime/pipeline/partition.h"

namespace penstock {

/// Reads --device, by stage: "cpu"; "cuda", which leaves a stage that holds the embedding alone to its host;
/// or one of the two for each stage, as in "cpu,cuda,cuda,cuda". Throws UsageError when it is none of these.
std::vector<DeviceKind> parse_devices(const std::string& flag, const Partition& partition);
bool any_gpu(const std::vector<DeviceKind>& kinds);
/// Whether all stages compute on one kind of device, so that their times compare.
bool devices_are_alike(const std::vector<DeviceKind>& kinds);
/// How slow each stage's device is, the fastest kind being 1; empty where --device names one kind. For
/// --layer-partition auto.
std::vector<double> slowness_of_devices(const std::string& flag);
/// Whether --device asks for a GPU anywhere.
bool names_gpu(const std::string& flag);

/// What a rank sees: with CUDA_VISIBLE_DEVICES or Slurm's binding perhaps other GPUs than its neighbours.
struct VisibleGpus {
  std::string host;
  std::vector<std::string> ids;  ///< by ordinal, the same for the same GPU; empty where the rank wants none
};
/// For each rank the ordinal of its GPU, -1 where it wants none: in rank order, the GPU that fewest ranks
/// have taken.
std::vector<int> choose_gpus(const std::vector<VisibleGpus>& visible);
/// How many ranks share the GPU of each rank, itself included; 0 where it has none.
std::vector<int> sharers_of_gpus(const std::vector<VisibleGpus>& visible, const std::vector<int>& chosen);

}  // namespace penstock
