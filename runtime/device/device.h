// A device is where tensors live and ops run. One per rank, driven by one thread; calls are not thread-safe.
// Work is ordered: what is asked of a device happens in the order of asking. On a CPU every call has
// finished when it returns; on a GPU `synchronize` waits.
#pragma once

#include <cstddef>
#include <memory>
#include <string>

#include "runtime/base/error.h"
#include "runtime/device/tensor.h"

namespace penstock {

enum class DeviceKind { cpu, cuda };

struct MemoryInfo {
  size_t total = 0;  ///< bytes the device has (for a CPU: what this process may use, cgroup limits included)
  size_t free = 0;
};

/// Memory ran out; less may be asked for.
class OutOfMemory : public Error {
 public:
  // Spelled out: nvcc 13.0 aborts at an inherited constructor whose default arguments are built-ins.
  explicit OutOfMemory(const std::string& message, Where where = Where::here())
      : Error(message, ExitStatus::runtime_failure, where) {}
};

class Device {
 public:
  virtual ~Device() = default;
  virtual DeviceKind kind() const = 0;
  virtual std::string name() const = 0;  ///< for people: "AMD EPYC, 2 threads", "cuda:0 NVIDIA H100"
  virtual MemoryInfo memory() const = 0;
  /// Uninitialised memory, aligned to 256 bytes. Throws OutOfMemory naming what was asked for and what is
  /// free.
  virtual DeviceMemory allocate(size_t bytes) = 0;
  virtual void upload(void* device_to, const void* host_from, size_t bytes) = 0;
  virtual void download(void* host_to, const void* device_from, size_t bytes) = 0;
  virtual void synchronize() = 0;

  Tensor tensor(DType dtype, Shape shape);
};

std::unique_ptr<Device> make_cpu_device();
/// Throws UsageError "built without CUDA" where the toolkit was missing at build time.
std::unique_ptr<Device> make_cuda_device(int ordinal);

}  // namespace penstock
