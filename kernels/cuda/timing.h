// How kernels that give the same bits are chosen among: by running them.
#pragma once

#include <functional>

#include "kernels/cuda/attention.h"
#include "runtime/device/cuda_device.h"

namespace penstock::cuda {

/// Milliseconds: the shortest of a few runs of `work` on the device's stream, infinite where it returns
/// false. Between layers the cache holds other things than what `work` reads, so the second half of the
/// workspace is overwritten before each run. Waits for the device.
float shortest_run(CudaDevice& device, Workspace workspace, const std::function<bool()>& work);

}  // namespace penstock::cuda
