// Sixteen lanes as a plain array: any processor, and the list of what a policy provides. Lanes are
// independent except in sum and largest, which halve the vector until one lane is left, as the other policies
// do.
#pragma once

#include <cstdint>
#include <cstring>

namespace penstock::cpu {

struct Portable {
  static constexpr const char* kName = "portable";
  static constexpr int kTileRows = 3;  // 12 sums in 16 registers
  struct F {
    float lane[16];
  };
  struct W {
    uint32_t lane[16];
  };

  template <class Body>
  static F each(const Body& body) {
    F r;
    for (int i = 0; i < 16; ++i) r.lane[i] = body(i);
    return r;
  }

  static F zero() { return set(0); }
  static F set(float x) {
    return each([&](int) { return x; });
  }
  static F load(const float* p) {
    F r;
    std::memcpy(&r, p, sizeof r);
    return r;
  }
  static F load(const float* p, int n) {
    return each([&](int i) { return i < n ? p[i] : 0.0F; });
  }
  static void store(float* p, F x) { std::memcpy(p, &x, sizeof x); }
  static void store(float* p, F x, int n) {
    for (int i = 0; i < n; ++i) p[i] = x.lane[i];
  }
  static F load(const uint16_t* p) {
    return each([&](int i) { return widen(p[i]); });
  }
  static F load(const uint16_t* p, int n) {
    return each([&](int i) { return i < n ? widen(p[i]) : 0.0F; });
  }
  static void store(uint16_t* p, F x) { store(p, x, 16); }
  static void store(uint16_t* p, F x, int n) {
    for (int i = 0; i < n; ++i) p[i] = narrow(x.lane[i]);
  }
  /// Sixteen float16.
  static F load_half(const uint16_t* p) {
    return each([&](int i) { return widen_half(p[i]); });
  }
  /// The first n lanes, none beyond what float16 holds, rounded to nearest even.
  static void store_half(uint16_t* p, F x, int n) {
    for (int i = 0; i < n; ++i) p[i] = narrow_half(x.lane[i]);
  }
  /// 2^-8 of sixteen FP8 E4M3 values (float16 with fewer bits, shifted into its place); NaN becomes a number.
  static F load_e4m3(const uint8_t* p) { return load_e4m3(p, 16); }
  static F load_e4m3(const uint8_t* p, int n) {
    return each([&](int i) {
      const uint32_t bits = i < n ? p[i] : 0;
      return widen_half(static_cast<uint16_t>((bits & 0x80) << 8 | (bits & 0x7F) << 7));
    });
  }
  static F load_int8(const uint8_t* p) { return load_int8(p, 16); }
  static F load_int8(const uint8_t* p, int n) {
    return each([&](int i) { return i < n ? static_cast<float>(static_cast<int8_t>(p[i])) : 0.0F; });
  }
  /// The first n lanes, rounded to bf16, into every second element from p on.
  static void store_alternate(uint16_t* p, F x, int n) {
    for (int i = 0; i < n; ++i) p[2 * i] = narrow(x.lane[i]);
  }

  static F add(F a, F b) {
    return each([&](int i) { return a.lane[i] + b.lane[i]; });
  }
  static F sub(F a, F b) {
    return each([&](int i) { return a.lane[i] - b.lane[i]; });
  }
  static F mul(F a, F b) {
    return each([&](int i) { return a.lane[i] * b.lane[i]; });
  }
  static F div(F a, F b) {
    return each([&](int i) { return a.lane[i] / b.lane[i]; });
  }
  /// a b + c, rounded twice here: a fused one in software would be far slower.
  static F fma(F a, F b, F c) {
    return each([&](int i) { return a.lane[i] * b.lane[i] + c.lane[i]; });
  }
  static F max(F a, F b) {  // b if either is NaN
    return each([&](int i) { return a.lane[i] > b.lane[i] ? a.lane[i] : b.lane[i]; });
  }
  static F min(F a, F b) {
    return each([&](int i) { return a.lane[i] < b.lane[i] ? a.lane[i] : b.lane[i]; });
  }
  /// To the nearest integer, halves to even; |x| < 2^22.
  static F round(F x) {
    return each([&](int i) { return (x.lane[i] + 12582912.0F) - 12582912.0F; });
  }
  /// x 2^n for an integer n; n below -126 or above 127 is taken as that.
  static F times_power_of_two(F x, F n) {
    return each([&](int i) {
      const float power = n.lane[i] < 127.0F ? (n.lane[i] > -126.0F ? n.lane[i] : -126.0F) : 127.0F;
      return x.lane[i] * __builtin_bit_cast(float, (static_cast<int32_t>(power) + 127) << 23);
    });
  }
  /// `value` where not x < bound, else 0.
  static F zero_if_below(F value, F x, F bound) {
    return each([&](int i) { return x.lane[i] < bound.lane[i] ? 0.0F : value.lane[i]; });
  }
  /// 0 where x <= bound, else (NaN too) 1.
  static F one_unless_up_to(F x, F bound) {
    return each([&](int i) { return x.lane[i] <= bound.lane[i] ? 0.0F : 1.0F; });
  }
  /// The first n lanes of x, the others from `otherwise`.
  static F keep(F x, int n, F otherwise) {
    return each([&](int i) { return i < n ? x.lane[i] : otherwise.lane[i]; });
  }

  static float sum(F x) {
    for (int width = 8; width > 0; width /= 2)
      for (int i = 0; i < width; ++i) x.lane[i] += x.lane[i + width];
    return x.lane[0];
  }
  static float largest(F x) {
    for (int width = 8; width > 0; width /= 2)
      for (int i = 0; i < width; ++i)
        x.lane[i] = x.lane[i] > x.lane[i + width] ? x.lane[i] : x.lane[i + width];
    return x.lane[0];
  }

  static W words(const void* p) {
    W r;
    std::memcpy(&r, p, sizeof r);
    return r;
  }
  static W words(const void* p, int n) {
    W r{};
    std::memcpy(&r, p, static_cast<size_t>(n) * sizeof(uint32_t));
    return r;
  }
  static W every(const uint32_t* p) {
    W r;
    for (uint32_t& lane : r.lane) lane = *p;
    return r;
  }
  /// to[i][row] = word i of a row, for 16 words; the rows, at most 16, lie `stride` bytes apart.
  static void transpose_words(uint32_t* to, const char* from, int64_t stride, int rows) {
    for (int row = 0; row < rows; ++row) {
      uint32_t words[16];
      __builtin_memcpy(words, from + row * stride, sizeof words);
      for (int i = 0; i < 16; ++i) to[i * rows + row] = words[i];
    }
  }
  static void prefetch(const void* p) { __builtin_prefetch(p); }
  static void opaque(W& w) { asm volatile("" : "+m"(w)); }
  static void opaque(F& x) { asm volatile("" : "+m"(x)); }

  /// c + a.low b.low + a.high b.high in each lane, the low halves first.
  static F pair_step(F c, W a, W b) {
    return each([&](int i) {
      const float low = c.lane[i] + as_float(a.lane[i] << 16) * as_float(b.lane[i] << 16);
      return low + as_float(a.lane[i] & 0xFFFF0000) * as_float(b.lane[i] & 0xFFFF0000);
    });
  }
  static F float_step(F c, W a, W b) {
    return each([&](int i) { return c.lane[i] + as_float(a.lane[i]) * as_float(b.lane[i]); });
  }

 private:
  static float as_float(uint32_t bits) { return __builtin_bit_cast(float, bits); }
  static float widen_half(uint16_t x) {
    const uint32_t sign = static_cast<uint32_t>(x & 0x8000) << 16;
    if ((x & 0x7C00) == 0x7C00) return as_float(sign | 0x7F800000 | (static_cast<uint32_t>(x & 0x3FF) << 13));
    // Exact, subnormals too: the exponent's bias is moved by a multiplication.
    const float magnitude = as_float(static_cast<uint32_t>(x & 0x7FFF) << 13) * 0x1p112F;
    return (x & 0x8000) != 0 ? -magnitude : magnitude;
  }
  static uint16_t narrow_half(float x) {
    const uint32_t bits = __builtin_bit_cast(uint32_t, x);
    const auto sign = static_cast<uint16_t>((bits >> 16) & 0x8000);
    const uint32_t magnitude = bits & 0x7FFFFFFF;
    if (magnitude > 0x7F800000) return static_cast<uint16_t>(sign | 0x7E00);
    // A subnormal is rounded by adding a half, whose last bit is float16's least number.
    if (magnitude < 0x38800000)
      return static_cast<uint16_t>(sign |
                                   (__builtin_bit_cast(uint32_t, as_float(magnitude) + 0.5F) - 0x3F000000));
    return static_cast<uint16_t>(sign | ((magnitude - 0x38000000 + 0xFFF + ((magnitude >> 13) & 1)) >> 13));
  }
  static float widen(uint16_t x) { return as_float(static_cast<uint32_t>(x) << 16); }
  static uint16_t narrow(float x) {
    const auto bits = __builtin_bit_cast(uint32_t, x);
    if ((bits & 0x7FFFFFFF) > 0x7F800000) return static_cast<uint16_t>((bits >> 16) | 0x40);
    return static_cast<uint16_t>((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16);
  }
};

}  // namespace penstock::cpu
