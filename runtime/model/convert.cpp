#include "runtime/model/convert.h"

#include <cstring>

namespace penstock {

float f32_from_f16(uint16_t bits) {
  const uint32_t sign = static_cast<uint32_t>(bits & 0x8000U) << 16;
  const uint32_t exponent = (bits >> 10) & 0x1FU;
  const uint32_t fraction = bits & 0x3FFU;
  if (exponent == 0x1F) return std::bit_cast<float>(sign | 0x7F800000U | (fraction << 13));
  if (exponent == 0) {  // zero or subnormal: a multiple of 2^-24, exact in float32
    const float magnitude = static_cast<float>(fraction) * 0x1p-24F;
    return sign != 0 ? -magnitude : magnitude;
  }
  return std::bit_cast<float>(sign | ((exponent + 112) << 23) | (fraction << 13));
}

void convert(void* to, DType to_dtype, const TensorView& from) {
  ensure(to_dtype == DType::f32 || to_dtype == DType::bf16, "weights are kept in float32 or bfloat16");
  if (from.dtype == to_dtype) {
    std::memcpy(to, from.data, from.bytes());
    return;
  }
  const auto n = static_cast<size_t>(from.shape.elements());
  const auto each = [&](auto value_at) {
    if (to_dtype == DType::f32)
      for (size_t i = 0; i < n; ++i) static_cast<float*>(to)[i] = value_at(i);
    else
      for (size_t i = 0; i < n; ++i) static_cast<uint16_t*>(to)[i] = bf16_from_f32(value_at(i));
  };
  switch (from.dtype) {
    case DType::f32:
      each([p = from.as<const float>()](size_t i) { return p[i]; });
      break;
    case DType::bf16:
      each([p = from.as<const uint16_t>()](size_t i) { return f32_from_bf16(p[i]); });
      break;
    case DType::f16:
      each([p = from.as<const uint16_t>()](size_t i) { return f32_from_f16(p[i]); });
      break;
    case DType::i32:
    case DType::e4m3:
    case DType::i8:
      throw Error("internal error: integers are no weights, and FP8 ones need their scales");
  }
}

}  // namespace penstock
