// What narrow caches took from the vectors that kernels looked at since it was last asked for.
#pragma once

#include "kernels/ops.h"
#include "runtime/device/cuda_device.h"

namespace penstock::cuda {

class RoundingSums {
 public:
  explicit RoundingSums(CudaDevice& device) : device_(device) {}

  /// Where kernels add; the same place every time, as recorded steps want it.
  CacheRounding* on_device() {
    if (!memory_) {
      memory_ = device_.allocate(sizeof(CacheRounding));
      clear();
    }
    return static_cast<CacheRounding*>(memory_.get());
  }

  /// Waits for the stream, where there is such a cache.
  CacheRounding take() {
    CacheRounding sums;
    if (!memory_) return sums;
    device_.download(&sums, memory_.get(), sizeof sums);
    clear();
    return sums;
  }

 private:
  void clear() {
    const CacheRounding nothing;
    device_.upload(memory_.get(), &nothing, sizeof nothing);
  }

  CudaDevice& device_;
  DeviceMemory memory_;
};

}  // namespace penstock::cuda
