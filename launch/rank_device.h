// The device of one rank of a world.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "runtime/comm/world.h"
#include "runtime/device/device.h"

namespace penstock {

struct RankDevice {
  std::unique_ptr<Device> device;
  std::string gpu_id;            ///< the GPU's UUID; empty on a CPU
  int sharers = 1;               ///< ranks on this rank's GPU, itself included
  bool gpus_are_shared = false;  ///< some GPU of the world has several ranks
};

/// `kinds` by rank. A rank's GPU is one of those that CUDA_VISIBLE_DEVICES and the launcher let it see,
/// another than its neighbours' while there are enough; rank 0 warns where there are not. Collective: throws
/// AgreedFailure everywhere when some rank cannot have its device.
RankDevice open_device(World& world, const std::vector<DeviceKind>& kinds);

}  // namespace penstock
