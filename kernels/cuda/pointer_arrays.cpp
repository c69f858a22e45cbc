#include "kernels/cuda/pointer_arrays.h"

#include "kernels/cuda/tensor_map.h"

namespace penstock::cuda {
namespace {

template <class T>
DeviceMemory uploaded(Device& device, const std::vector<T>& values) {
  const size_t bytes = values.size() * sizeof(T);
  DeviceMemory memory = device.allocate(bytes);
  device.upload(memory.get(), values.data(), bytes);
  return memory;
}

}  // namespace

const void* const* PointerArrays::of(const std::vector<const void*>& pointers) {
  DeviceMemory& memory = uploaded_[pointers];
  if (memory == nullptr) memory = uploaded(device_, pointers);
  return static_cast<const void* const*>(memory.get());
}

const CUtensorMap* WeightMaps::of(const std::vector<const void*>& weights, int64_t n, int64_t k, int halves,
                                  int tile_rows) {
  DeviceMemory& memory = uploaded_[{weights, n, k, halves, tile_rows}];
  if (memory == nullptr) {
    std::vector<CUtensorMap> maps;
    for (const void* weight : weights)
      maps.push_back(weight == nullptr ? CUtensorMap{} : map_weight(weight, n, k, halves, tile_rows));
    memory = uploaded(device_, maps);
  }
  return static_cast<const CUtensorMap*>(memory.get());
}

}  // namespace penstock::cuda
