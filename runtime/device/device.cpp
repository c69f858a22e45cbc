#include "runtime/device/device.h"

namespace penstock {

const char* name_of(DType dtype) {
  switch (dtype) {
    case DType::f32:
      return "float32";
    case DType::bf16:
      return "bfloat16";
    case DType::f16:
      return "float16";
    case DType::i32:
      return "int32";
    case DType::e4m3:
      return "float8_e4m3";
    case DType::i8:
      return "int8";
  }
  return "?";
}

Shape::Shape(std::initializer_list<int64_t> dims) : rank_(static_cast<int>(dims.size())) {
  ensure(dims.size() <= dims_.size(), "a shape has at most four dimensions");
  size_t i = 0;
  for (int64_t d : dims) {
    ensure(d >= 0, "a dimension is not negative");
    dims_[i++] = d;
  }
}

int64_t Shape::elements() const {
  int64_t n = 1;
  for (int i = 0; i < rank_; ++i) n *= (*this)[i];
  return n;
}

std::string Shape::text() const {
  std::string s = "[";
  for (int i = 0; i < rank_; ++i) s += (i ? ", " : "") + std::to_string((*this)[i]);
  return s + "]";
}

TensorView TensorView::first(int64_t rows) const {
  ensure(shape.rank() >= 1 && rows <= shape[0], "first(): more rows than the tensor has");
  TensorView v = *this;
  switch (shape.rank()) {
    case 1:
      v.shape = {rows};
      break;
    case 2:
      v.shape = {rows, shape[1]};
      break;
    case 3:
      v.shape = {rows, shape[1], shape[2]};
      break;
    default:
      v.shape = {rows, shape[1], shape[2], shape[3]};
  }
  return v;
}

TensorView TensorView::rows(int64_t first_row, int64_t count) const {
  TensorView v = first(first_row + count).first(count);
  if (shape[0] > 0)
    v.data =
        static_cast<char*>(data) + bytes() / static_cast<size_t>(shape[0]) * static_cast<size_t>(first_row);
  return v;
}

Tensor Device::tensor(DType dtype, Shape shape) {
  const size_t bytes = static_cast<size_t>(shape.elements()) * bytes_of(dtype);
  DeviceMemory memory = allocate(bytes == 0 ? 1 : bytes);
  return {memory, {memory.get(), dtype, shape}};
}

}  // namespace penstock
