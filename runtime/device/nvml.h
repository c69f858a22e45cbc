// What NVIDIA's management library says of one GPU, for those who watch a job: how busy it is, and how much
// of its memory all processes together use. The library comes with the driver and is opened when asked for,
// so that a machine without one runs the same program.
#pragma once

#include <memory>
#include <optional>
#include <string>

#include "runtime/device/device.h"

namespace penstock {

/// Any one thread at a time.
class Nvml {
 public:
  /// `uuid` as the driver spells it: "GPU-8f6d...". Null where the library, the driver or that GPU is
  /// missing.
  static std::unique_ptr<Nvml> open(const std::string& uuid,
                                    const std::string& library = "libnvidia-ml.so.1");
  ~Nvml();
  Nvml(const Nvml&) = delete;
  Nvml& operator=(const Nvml&) = delete;

  /// Share of the last sample period (a sixth of a second to a second) in which a kernel ran.
  std::optional<double> utilization() const;
  std::optional<MemoryInfo> memory() const;

 private:
  struct Functions;
  Nvml();
  std::unique_ptr<Functions> functions_;
};

}  // namespace penstock
