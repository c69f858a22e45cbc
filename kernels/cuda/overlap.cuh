// Kernels that start while the one before them in the stream still ends ("programmatic dependent launch",
// CUDA programming guide): the launch, and reads of what no kernel writes, cost no time of their own then. On
// devices before Hopper kernels wait for each other as ever.
#pragma once

#include <cuda_runtime.h>

#include <nv/target>

#include "runtime/device/cuda_handle.h"

namespace penstock::cuda {

/// The next kernel may start once every block has called this or ended, and there is room for its blocks.
__device__ inline void let_next_start() {
  NV_IF_TARGET(NV_PROVIDES_SM_90, (asm volatile("griddepcontrol.launch_dependents;");))
}
/// Waits for the kernels before this one; what they wrote is there then. Until then a kernel may only read
/// what no kernel writes, and it writes nothing.
__device__ inline void wait_for_previous() {
  NV_IF_TARGET(NV_PROVIDES_SM_90, (asm volatile("griddepcontrol.wait;" ::: "memory");))
}

/// Starts a kernel whose blocks call wait_for_previous(). Throws Error "CUDA: what: the driver's words".
template <class... Parameters, class... Arguments>
void launch_overlapped(const char* what, cudaStream_t stream, void (*kernel)(Parameters...), dim3 grid,
                       dim3 threads, size_t shared_bytes, const Arguments&... arguments) {
  int device = 0, major = 0;
  check(cudaGetDevice(&device), "find the device");
  check(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device),
        "read the device's properties");
  cudaLaunchAttribute overlap{};
  overlap.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  overlap.val.programmaticStreamSerializationAllowed = 1;
  cudaLaunchConfig_t config{};
  config.gridDim = grid;
  config.blockDim = threads;
  config.dynamicSmemBytes = shared_bytes;
  config.stream = stream;
  config.attrs = &overlap;
  config.numAttrs = major >= 9 ? 1 : 0;
  check(cudaLaunchKernelEx(&config, kernel, Parameters(arguments)...), what);
}

}  // namespace penstock::cuda
