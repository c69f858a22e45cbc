// Arrays of pointers in device memory, for kernels that multiply by many weights at once. Driven by the
// device's thread.
#pragma once

#include <map>
#include <vector>

#include "runtime/device/device.h"

namespace penstock::cuda {

class PointerArrays {
 public:
  explicit PointerArrays(Device& device) : device_(device) {}

  /// These pointers in device memory, which stays as long as this does. They are uploaded when they are asked
  /// for the first time, which must not be recorded.
  const void* const* of(const std::vector<const void*>& pointers);

 private:
  Device& device_;
  std::map<std::vector<const void*>, DeviceMemory> uploaded_;
};

}  // namespace penstock::cuda
