// Operations on single rows: norm, rotation, gated activation, conversions, and what sampling reads the
// logits with. Written once, compiled for each instruction set. One row, one order.
#pragma once

#include "kernels/cpu/kernel_table.h"
#include "kernels/cpu/vector_math.h"

namespace penstock::cpu {

/// Calls body(i, n) for pieces of 16 lanes; n < 16 in the last one at most.
template <class Body>
inline void for_lanes(int64_t count, const Body& body) {
  int64_t i = 0;
  for (; i + 16 <= count; i += 16) body(i, 16);
  if (i < count) body(i, static_cast<int>(count - i));
}

template <class V, class To, class From>
void convert(To* to, const From* from, int64_t count) {
  for_lanes(count, [&](int64_t i, int n) { V::store(to + i, V::load(from + i, n), n); });
}

template <class V>
void to_half(uint16_t* to, const float* from, int64_t count) {
  // In this order NaN stays NaN: min and max give their second operand if either is NaN.
  const auto most = V::set(65504.0F);
  const auto least = V::set(-65504.0F);
  for_lanes(count, [&](int64_t i, int n) {
    V::store_half(to + i, V::max(least, V::min(most, V::load(from + i, n))), n);
  });
}

template <class V>
void from_half(float* to, const uint16_t* from, int64_t count) {
  for_lanes(count, [&](int64_t i, int n) {
    if (n == 16) {
      V::store(to + i, V::load_half(from + i));
      return;
    }
    uint16_t rest[16] = {};
    for (int lane = 0; lane < n; ++lane) rest[lane] = from[i + lane];
    V::store(to + i, V::load_half(rest), n);
  });
}

/// E4M3 is float16 with fewer bits: shifted into its place it is 2^-8 of its value, subnormals too. NaN
/// becomes a number; weights hold none. n is a multiple of 16. A policy may have a shorter way to bf16.
template <class V, class To>
void widen_e4m3(To* to, const uint8_t* from, int64_t count) {
  if constexpr (sizeof(To) == 2 && requires { V::widen_e4m3(to, from); }) {
    for (; count >= 32; count -= 32, to += 32, from += 32) V::widen_e4m3(to, from);
  }
  uint16_t halves[16];
  for (int64_t i = 0; i < count; i += 16) {
    for (int lane = 0; lane < 16; ++lane) {
      const unsigned bits = from[i + lane];
      halves[lane] = static_cast<uint16_t>(((bits & 0x80) << 8) | ((bits & 0x7F) << 7));
    }
    V::store(to + i, V::load_half(halves));
  }
}

template <class V>
void add_product(float* y, const float* a, const float* b, int64_t count) {
  for_lanes(count, [&](int64_t i, int n) {
    V::store(y + i, V::fma(V::load(a + i, n), V::load(b + i, n), V::load(y + i, n)), n);
  });
}

template <class V>
void add_scaled(float* y, const float* x, float w, int64_t count) {
  for_lanes(count, [&](int64_t i, int n) {
    V::store(y + i, V::fma(V::set(w), V::load(x + i, n), V::load(y + i, n)), n);
  });
}

template <class V>
void narrow_alternate(uint16_t* to, const float* from, int64_t count) {
  for_lanes(count, [&](int64_t i, int n) { V::store_alternate(to + 2 * i, V::load(from + i, n), n); });
}

template <class V, class Y>
void rms_norm_row(Y* y, const float* x, const float* weight, int64_t count, float eps) {
  typename V::F sums[4] = {V::zero(), V::zero(), V::zero(), V::zero()};
  for_lanes(count, [&](int64_t i, int n) {
    const auto value = V::load(x + i, n);
    auto& sum = sums[(i / 16) % 4];
    sum = V::fma(value, value, sum);
  });
  const float sum = V::sum(V::add(V::add(sums[0], sums[1]), V::add(sums[2], sums[3])));
  const auto scale = V::set(1.0F / __builtin_sqrtf(sum / static_cast<float>(count) + eps));
  for_lanes(count, [&](int64_t i, int n) {
    V::store(y + i, V::mul(V::mul(V::load(x + i, n), scale), V::load(weight + i, n)), n);
  });
}

template <class V>
void rotate_row(float* x, const float* cos_sin_2r, int64_t r) {
  for_lanes(r, [&](int64_t i, int n) {
    const auto c = V::load(cos_sin_2r + i, n);
    const auto s = V::load(cos_sin_2r + r + i, n);
    const auto a = V::load(x + i, n);
    const auto b = V::load(x + r + i, n);
    V::store(x + i, V::sub(V::mul(a, c), V::mul(b, s)), n);
    V::store(x + r + i, V::add(V::mul(b, c), V::mul(a, s)), n);
  });
}

template <class V, class Y, class X>
void swiglu_row(Y* y, const X* gate, const X* up, int64_t count) {
  for_lanes(count, [&](int64_t i, int n) {
    const auto g = V::load(gate + i, n);
    const auto silu = V::div(g, V::add(V::set(1.0F), exp<V>(V::sub(V::zero(), g))));
    V::store(y + i, V::mul(silu, V::load(up + i, n)), n);
  });
}

template <class V>
bool block_maxima(float* largest, const float* x, int64_t count) {
  const auto nothing = V::set(-__builtin_inff());
  const auto most = V::set(3.402823466e38F);
  bool ordinary = true;
  for (int64_t start = 0; start < count; start += kSampleBlock) {
    const int64_t here = count - start < kSampleBlock ? count - start : kSampleBlock;
    auto top = nothing;
    auto odd = V::zero();  // how many NaN and +inf
    for_lanes(here, [&](int64_t i, int n) {
      const auto value = V::keep(V::load(x + start + i, n), n, nothing);
      top = V::max(value, top);
      odd = V::add(odd, V::one_unless_up_to(value, most));
    });
    largest[start / kSampleBlock] = V::largest(top);
    ordinary = ordinary && V::sum(odd) == 0;
  }
  return ordinary;
}

template <class V>
void weights(float* w, float* sums, const float* x, int64_t count, float largest, float temperature,
             float least) {
  const auto top = V::set(largest);
  const auto divisor = V::set(temperature);
  const auto bound = V::set(least);
  for (int64_t start = 0; start < count; start += kSampleBlock) {
    const int64_t here = count - start < kSampleBlock ? count - start : kSampleBlock;
    auto sum = V::zero();
    for_lanes(here, [&](int64_t i, int n) {
      const auto value = exp<V>(V::div(V::sub(V::load(x + start + i, n), top), divisor));
      const auto kept = V::keep(V::zero_if_below(value, value, bound), n, V::zero());
      V::store(w + start + i, kept, n);
      sum = V::add(sum, kept);
    });
    if (sums != nullptr) sums[start / kSampleBlock] = V::sum(sum);
  }
}

template <class V>
constexpr void add_rows(KernelTable& table) {
  table.widen = convert<V, float, uint16_t>;
  table.narrow = convert<V, uint16_t, float>;
  table.to_half = to_half<V>;
  table.from_half = from_half<V>;
  table.widen_e4m3_f32 = widen_e4m3<V, float>;
  table.widen_e4m3_bf16 = widen_e4m3<V, uint16_t>;
  table.add_product = add_product<V>;
  table.add_scaled = add_scaled<V>;
  table.narrow_alternate = narrow_alternate<V>;
  table.rms_norm_f32 = rms_norm_row<V, float>;
  table.rms_norm_bf16 = rms_norm_row<V, uint16_t>;
  table.rotate = rotate_row<V>;
  table.swiglu_f32_f32 = swiglu_row<V, float, float>;
  table.swiglu_f32_bf16 = swiglu_row<V, uint16_t, float>;
  table.swiglu_bf16_f32 = swiglu_row<V, float, uint16_t>;
  table.swiglu_bf16_bf16 = swiglu_row<V, uint16_t, uint16_t>;
  table.block_maxima = block_maxima<V>;
  table.weights = weights<V>;
}

}  // namespace penstock::cpu
