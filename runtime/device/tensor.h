// Dtypes, shapes and tensors. A TensorView borrows memory of one device and never frees it; a Tensor owns its
// memory through the Device that made it and must not outlive that Device. Neither is synchronised: the
// thread that drives a device is the only one to touch its tensors.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <memory>
#include <string>

#include "runtime/base/error.h"

namespace penstock {

enum class DType : uint8_t { f32, bf16, f16, i32, e4m3, i8 };

constexpr size_t bytes_of(DType dtype) {
  return dtype == DType::f32 || dtype == DType::i32 ? 4 : dtype == DType::e4m3 || dtype == DType::i8 ? 1 : 2;
}
const char* name_of(DType dtype);  ///< "float32", "bfloat16", "float16", "int32", "float8_e4m3", "int8"

/// Up to four dimensions, row-major.
class Shape {
 public:
  Shape() = default;
  Shape(std::initializer_list<int64_t> dims);
  int rank() const { return rank_; }
  int64_t operator[](int i) const { return dims_[static_cast<size_t>(i)]; }
  int64_t elements() const;
  bool operator==(const Shape&) const = default;
  std::string text() const;  ///< "[192, 64]"

 private:
  std::array<int64_t, 4> dims_{};
  int rank_ = 0;
};

/// Contiguous, row-major, borrowed.
struct TensorView {
  void* data = nullptr;
  DType dtype = DType::f32;
  Shape shape;

  size_t bytes() const { return static_cast<size_t>(shape.elements()) * bytes_of(dtype); }
  int64_t dim(int i) const { return shape[i]; }
  template <class T>
  T* as() const {
    return static_cast<T*>(data);
  }
  /// The first `rows` of dimension 0.
  TensorView first(int64_t rows) const;
  /// Rows [first_row, first_row + count) of dimension 0.
  TensorView rows(int64_t first_row, int64_t count) const;
};

/// Memory of a device, freed by it.
using DeviceMemory = std::shared_ptr<void>;

struct Tensor {
  DeviceMemory memory;
  TensorView view;

  operator TensorView() const { return view; }  // NOLINT: a tensor is used wherever a view is
  explicit operator bool() const { return memory != nullptr; }
};

}  // namespace penstock
