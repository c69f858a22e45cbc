#include "kernels/cuda/pointer_arrays.h"

namespace penstock::cuda {

const void* const* PointerArrays::of(const std::vector<const void*>& pointers) {
  auto found = uploaded_.find(pointers);
  if (found == uploaded_.end()) {
    const size_t bytes = pointers.size() * sizeof(const void*);
    DeviceMemory memory = device_.allocate(bytes);
    device_.upload(memory.get(), pointers.data(), bytes);
    found = uploaded_.emplace(pointers, std::move(memory)).first;
  }
  return static_cast<const void* const*>(found->second.get());
}

}  // namespace penstock::cuda
