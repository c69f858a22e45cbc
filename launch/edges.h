// The two ends that a stage has of its replica's chain of hidden states, each over what suits the two
// devices: host memory over the world's own channel; two GPUs by their copy engines where they reach each
// other's memory, else over NCCL; a GPU and a CPU (or two GPU stages of one process) staged.
#pragma once

#include <vector>

#include "launch/job_options.h"
#include "runtime/comm/world.h"
#include "runtime/device/device.h"
#include "runtime/pipeline/layout.h"
#include "runtime/pipeline/runner.h"

namespace penstock {

/// Collective; every edge is connected and tried when it returns. `kinds` by rank. `gpus_are_shared`: two
/// ranks of the world have the same GPU, which NCCL takes only from ranks that seem to be on different hosts;
/// this sets its environment so. World and device must outlive the edges. Throws AgreedFailure where
/// GpuEdges::copy is wanted and cannot be had.
RunnerEdges make_edges(World& world, Device& device, const Layout& layout,
                       const std::vector<DeviceKind>& kinds, bool gpus_are_shared, GpuEdges wanted);

}  // namespace penstock
