// A device is where tensors live and ops run. One per rank, driven by one thread; calls are not thread-safe.
// Work is ordered: what is asked of a device happens in the order of asking. On a CPU every call has
// finished when it returns; on a GPU `synchronize` waits.
#pragma once

#include <cstddef>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "runtime/base/error.h"
#include "runtime/device/tensor.h"

namespace penstock {

enum class DeviceKind { cpu, cuda };

struct MemoryInfo {
  size_t total = 0;  ///< bytes the device has (for a CPU: what this process may use, cgroup limits included)
  size_t free = 0;
};

/// What a device's allocator does with the memory it holds.
struct MemoryUse {
  size_t in_use = 0;        ///< bytes handed out
  size_t reserved = 0;      ///< bytes taken from the device, cached ones included
  size_t largest_free = 0;  ///< the largest piece that could be handed out without asking the device
  /// Share of the cached bytes that no single allocation could have.
  double fragmentation() const {
    const size_t cached = reserved - in_use;
    return cached == 0 ? 0 : 1 - static_cast<double>(largest_free) / static_cast<double>(cached);
  }
};

/// Work that can be asked of a device again, whole, for less than its parts cost. Must not outlive the Device
/// and the memory that the work uses.
class Recording {
 public:
  virtual ~Recording() = default;
  virtual void replay() = 0;
};

/// A place in the order of a device's work: reached when everything asked for before it is done. Must not
/// outlive the Device.
class Moment {
 public:
  virtual ~Moment() = default;
  virtual bool reached() const = 0;
};

/// Memory ran out; less may be asked for.
class OutOfMemory : public Error {
 public:
  // Spelled out: nvcc 13 cannot inherit a constructor with such a default.
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
  /// The moment at which all that was asked for so far is done. Null from a device that has always done it
  /// already.
  virtual std::unique_ptr<Moment> mark() = 0;

  /// Runs `ask`, which asks this device for work, and keeps that work instead of doing it: no upload,
  /// download, wait or allocation may be among it. Null, with nothing run, from a device that gains nothing
  /// by it.
  virtual std::unique_ptr<Recording> record(const std::function<void()>& ask) = 0;
  /// Absent where allocations are left to the system.
  virtual std::optional<MemoryUse> memory_use() const = 0;

  Tensor tensor(DType dtype, Shape shape);
};

std::unique_ptr<Device> make_cpu_device();
/// Throws UsageError "built without CUDA" where the toolkit was missing at build time.
std::unique_ptr<Device> make_cuda_device(int ordinal);
/// The GPUs that this process may use, by ordinal, each by its UUID as the driver spells it ("GPU-8f6d...").
/// Throws as make_cuda_device does where there is none.
std::vector<std::string> cuda_device_ids();

}  // namespace penstock
