// What narrow caches took from the vectors that kernels looked at. Sums stay on the device and only grow; the
// host is told without waiting.
#pragma once

#include <memory>

#include "kernels/ops.h"
#include "runtime/device/cuda_device.h"

namespace penstock::cuda {

/// One thread, that of the Ops.
class RoundingSums {
 public:
  explicit RoundingSums(CudaDevice& device) : device_(device) {}

  /// Where kernels add; the same place every time, as recorded steps want it.
  CacheRounding* on_device() {
    if (!memory_) {
      const CacheRounding nothing;
      memory_ = device_.allocate(sizeof nothing);
      device_.upload(memory_.get(), &nothing, sizeof nothing);
      arrived_ = make_pinned(sizeof nothing);
    }
    return static_cast<CacheRounding*>(memory_.get());
  }

  /// By how much they had grown when they were last asked for, which is an earlier call of this.
  CacheRounding take() {
    if (!memory_ || (arrival_ && !arrival_->reached())) return {};
    CacheRounding growth;
    if (arrival_) {
      const CacheRounding now = *static_cast<const CacheRounding*>(arrived_.get());
      growth = {now.error - told_.error, now.kept - told_.kept};
      told_ = now;
    }
    check(cudaMemcpyAsync(arrived_.get(), memory_.get(), sizeof told_, cudaMemcpyDeviceToHost,
                          device_.stream()),
          "bring back what a cache rounds");
    arrival_ = device_.mark();
    return growth;
  }

 private:
  CudaDevice& device_;
  DeviceMemory memory_;
  PinnedMemory arrived_;
  std::unique_ptr<Moment> arrival_;
  CacheRounding told_;
};

}  // namespace penstock::cuda
