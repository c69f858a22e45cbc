// Device memory for what lives only within one block of a layer (projections, activations). Allocated once,
// handed out front to back, taken back all at once: layers run one after another and share it.
#pragma once

#include "runtime/device/device.h"

namespace penstock {

class Scratch {
 public:
  Scratch(Device& device, size_t bytes) : memory_(device.allocate(bytes == 0 ? 1 : bytes)), bytes_(bytes) {}

  /// What `take` uses up, so that an owner can say beforehand how much it needs.
  static size_t bytes_for(DType dtype, const Shape& shape) {
    constexpr size_t kAlignment = 256;
    const size_t bytes = static_cast<size_t>(shape.elements()) * bytes_of(dtype);
    return (bytes + kAlignment - 1) / kAlignment * kAlignment;
  }

  TensorView take(DType dtype, const Shape& shape) {
    const size_t bytes = bytes_for(dtype, shape);
    ensure(bytes <= bytes_ - used_, "a layer takes more scratch memory than it asked for");
    TensorView view{static_cast<char*>(memory_.get()) + used_, dtype, shape};
    used_ += bytes;
    return view;
  }
  void reset() { used_ = 0; }
  /// For what lives shorter still: gives back all that was taken since `mark` was asked for.
  size_t mark() const { return used_; }
  void reset_to(size_t mark) { used_ = mark; }

 private:
  DeviceMemory memory_;
  size_t bytes_ = 0;
  size_t used_ = 0;
};

}  // namespace penstock
