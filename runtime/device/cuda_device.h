// One GPU and its one compute stream. What upload, download and the ops are asked for happens in that stream,
// in the order of asking; the host runs ahead until download or synchronize.
// Memory comes from a pool that keeps what is freed. Driven by the thread that made it.
#pragma once

#include <cuda_runtime_api.h>

#include <array>

#include "runtime/device/cuda_handle.h"
#include "runtime/device/memory_pool.h"

namespace penstock {

class CudaDevice final : public Device {
 public:
  /// Throws UsageError when there is no driver, or no such device.
  explicit CudaDevice(int ordinal);
  ~CudaDevice() override;

  DeviceKind kind() const override { return DeviceKind::cuda; }
  std::string name() const override;
  /// Memory that the pool keeps for later counts as free.
  MemoryInfo memory() const override;
  DeviceMemory allocate(size_t bytes) override;
  /// `host_from` may be changed as soon as this returns: it is copied into pinned memory first. Waits only
  /// when kStagings pieces of kStagingBytes are under way.
  void upload(void* device_to, const void* host_from, size_t bytes) override;
  /// Waits for the stream.
  void download(void* host_to, const void* device_from, size_t bytes) override;
  void synchronize() override;
  std::unique_ptr<Moment> mark() override;
  /// A CUDA graph of what `ask` put into the stream.
  std::unique_ptr<Recording> record(const std::function<void()>& ask) override;
  std::optional<MemoryUse> memory_use() const override { return pool_.use(); }

  cudaStream_t stream() const { return stream_.get(); }
  int multiprocessors() const { return properties_.multiProcessorCount; }
  /// Those that a kernel which fills the device block by block may count on: a block that waits for a place
  /// until others are through with all their work doubles its time.
  int free_multiprocessors() const { return multiprocessors() - set_aside_; }
  /// Kernels of another stream, which wait for a peer, hold so many from here on; negative: so many less.
  void set_aside(int more) { set_aside_ += more; }
  /// "NVIDIA H100 80GB HBM3".
  std::string model() const { return properties_.name; }
  /// "sm_90": which machine code runs here.
  std::string architecture() const;

  static constexpr size_t kStagings = 16;
  static constexpr size_t kStagingBytes = size_t{2} << 20;

 private:
  /// Pinned memory between the host and the device. `free` is reached when the device has read what was put
  /// in last.
  struct Staging {
    cuda::PinnedMemory memory;
    cuda::Event free;
  };
  Staging& next_staging();

  int ordinal_;
  cudaDeviceProp properties_{};
  MemoryPool pool_;
  cuda::Stream stream_;
  std::array<Staging, kStagings> staging_;
  size_t next_ = 0;
  int set_aside_ = 0;
};

/// The CUDA back end's ops work on its device only.
CudaDevice& as_cuda(Device& device);

}  // namespace penstock
