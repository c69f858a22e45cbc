// Vectors in one byte a value with a float scale for all of them, as the KV cache keeps them: FP8 E4M3 and
// int8. Written once, compiled for each instruction set; plain loops, which the compiler turns into vectors.
// All three sets give the same codes: nothing here is rounded but the quotient value / scale.
#pragma once

#include "kernels/cpu/kernel_table.h"

namespace penstock::cpu {

/// The scale by which the largest magnitude becomes `most`. Not a number if a value is not: so it stays
/// visible.
template <class V>
float scale_for(const float* from, int64_t count, float most) {
  uint32_t largest = 0;  // as bits, which are in the order of magnitudes, infinity and then NaN last
  for (int64_t i = 0; i < count; ++i) {
    const uint32_t magnitude = __builtin_bit_cast(uint32_t, from[i]) & 0x7FFFFFFF;
    largest = magnitude > largest ? magnitude : largest;
  }
  const float scale = __builtin_bit_cast(float, largest) / most;
  return scale < 1.17549435e-38F ? 1.17549435e-38F : scale;
}

/// To nearest, ties to even; beyond 448 it is 448.
template <class V>
uint8_t e4m3_code(float x) {
  const auto bits = __builtin_bit_cast(uint32_t, x);
  const uint32_t magnitude = bits & 0x7FFFFFFF;
  const uint32_t normal = ((magnitude + 0x7FFFF + ((magnitude >> 20) & 1)) >> 20) - (120U << 3);
  // Below 2^-6 in units of 2^-9, which are the last bit of a float between 2^14 and 2^15.
  const uint32_t small =
      __builtin_bit_cast(uint32_t, __builtin_bit_cast(float, magnitude) + 16384.0F) - 0x46800000;
  const uint32_t code = magnitude < 0x3C800000 ? small : normal;
  return static_cast<uint8_t>((bits >> 24 & 0x80) | (code < 0x7E ? code : 0x7E));
}

template <class V>
float to_e4m3(uint8_t* __restrict to, const float* __restrict from, int64_t count) {
  const float scale = scale_for<V>(from, count, 448.0F);
  for (int64_t i = 0; i < count; ++i) to[i] = e4m3_code<V>(from[i] / scale);
  return scale;
}

/// -127 ... 127, ties to even: the last bits of a float whose unit is 1.
template <class V>
float to_int8(uint8_t* __restrict to, const float* __restrict from, int64_t count) {
  const float scale = scale_for<V>(from, count, 127.0F);
  for (int64_t i = 0; i < count; ++i)
    to[i] = static_cast<uint8_t>(__builtin_bit_cast(uint32_t, from[i] / scale + 12582912.0F));
  return scale;
}

/// One byte of the cache as 16 lanes take it: kUnit times what is loaded is the code's value.
template <class V>
struct E4m3Codes {
  static constexpr float kUnit = 256;
  static typename V::F load(const uint8_t* p) { return V::load_e4m3(p); }
  static typename V::F load(const uint8_t* p, int n) { return V::load_e4m3(p, n); }
};
template <class V>
struct Int8Codes {
  static constexpr float kUnit = 1;
  static typename V::F load(const uint8_t* p) { return V::load_int8(p); }
  static typename V::F load(const uint8_t* p, int n) { return V::load_int8(p, n); }
};

template <class V, class Codes>
void from_scaled(float* to, const uint8_t* from, int64_t count, float scale) {
  const auto factor = V::set(scale * Codes::kUnit);
  for (int64_t i = 0; i < count; i += 16) {
    const int n = count - i < 16 ? static_cast<int>(count - i) : 16;
    V::store(to + i, V::mul(Codes::load(from + i, n), factor), n);
  }
}

template <class V>
constexpr void add_scaled_rows(KernelTable& table) {
  table.e4m3 = {to_e4m3<V>, from_scaled<V, E4m3Codes<V>>};
  table.int8 = {to_int8<V>, from_scaled<V, Int8Codes<V>>};
}

}  // namespace penstock::cpu
