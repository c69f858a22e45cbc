// Arrays in device memory, for kernels that multiply by many weights at once: where the weights lie, or what
// tile copies are told of them. Each is uploaded when it is asked for the first time, which must not be
// recorded, and stays as long as its owner does. Driven by the device's thread.
#pragma once

#include <cuda.h>

#include <map>
#include <tuple>
#include <vector>

#include "runtime/device/device.h"

namespace penstock::cuda {

class PointerArrays {
 public:
  explicit PointerArrays(Device& device) : device_(device) {}

  const void* const* of(const std::vector<const void*>& pointers);

 private:
  Device& device_;
  std::map<std::vector<const void*>, DeviceMemory> uploaded_;
};

class WeightMaps {
 public:
  explicit WeightMaps(Device& device) : device_(device) {}

  /// Of n x k weights, as map_weight makes them; of none where a pointer is null.
  const CUtensorMap* of(const std::vector<const void*>& weights, int64_t n, int64_t k, int halves,
                        int tile_rows);

 private:
  using Key = std::tuple<std::vector<const void*>, int64_t, int64_t, int, int>;
  Device& device_;
  std::map<Key, DeviceMemory> uploaded_;
};

}  // namespace penstock::cuda
