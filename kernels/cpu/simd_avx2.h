// Sixteen lanes as two registers of AVX2 with FMA. Included by avx2.cpp alone, which is compiled for them.
// simd_portable.h lists what every such policy provides.
#pragma once

#include <immintrin.h>

#include <cstdint>

namespace penstock::cpu {

struct Avx2 {
  static constexpr const char* kName = "avx2";
  static constexpr int kTileRows = 3;  // 12 sums in 16 registers
  struct F {
    __m256 a, b;  // lanes 0 to 7, 8 to 15
  };
  struct W {
    __m256i a, b;
  };

  static F zero() { return {_mm256_setzero_ps(), _mm256_setzero_ps()}; }
  static F set(float x) { return {_mm256_set1_ps(x), _mm256_set1_ps(x)}; }
  static F load(const float* p) { return {_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)}; }
  static F load(const float* p, int n) {
    const W m = first(n);
    return {_mm256_maskload_ps(p, m.a), _mm256_maskload_ps(p + 8, m.b)};
  }
  static void store(float* p, F x) {
    _mm256_storeu_ps(p, x.a);
    _mm256_storeu_ps(p + 8, x.b);
  }
  static void store(float* p, F x, int n) {
    const W m = first(n);
    _mm256_maskstore_ps(p, m.a, x.a);
    _mm256_maskstore_ps(p + 8, m.b, x.b);
  }
  static F load(const uint16_t* p) {
    return {widen(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))),
            widen(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p + 8)))};
  }
  static F load(const uint16_t* p, int n) {
    if (n == 16) return load(p);
    uint16_t part[16] = {};
    for (int i = 0; i < n; ++i) part[i] = p[i];
    return load(part);
  }
  static void store(uint16_t* p, F x) {
    _mm_storeu_si128(reinterpret_cast<__m128i*>(p), narrow(x.a));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(p + 8), narrow(x.b));
  }
  static void store(uint16_t* p, F x, int n) {
    if (n == 16) return store(p, x);
    uint16_t all[16];
    store(all, x);
    for (int i = 0; i < n; ++i) p[i] = all[i];
  }
  static F load_half(const uint16_t* p) {
    return {_mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))),
            _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p + 8)))};
  }
  static void store_half(uint16_t* p, F x, int n) {
    uint16_t all[16];
    _mm_storeu_si128(reinterpret_cast<__m128i*>(all), _mm256_cvtps_ph(x.a, _MM_FROUND_TO_NEAREST_INT));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(all + 8), _mm256_cvtps_ph(x.b, _MM_FROUND_TO_NEAREST_INT));
    for (int i = 0; i < n; ++i) p[i] = all[i];
  }
  /// 2^-8 of sixteen FP8 E4M3 values (float16 with fewer bits, shifted into its place); NaN becomes a number.
  static F load_e4m3(const uint8_t* p) {
    const __m128i x = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
    return {e4m3(x), e4m3(_mm_srli_si128(x, 8))};
  }
  static F load_e4m3(const uint8_t* p, int n) {
    if (n == 16) return load_e4m3(p);
    uint8_t part[16] = {};
    for (int i = 0; i < n; ++i) part[i] = p[i];
    return load_e4m3(part);
  }
  static F load_int8(const uint8_t* p) {
    const __m128i x = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
    return {_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(x)),
            _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_srli_si128(x, 8)))};
  }
  static F load_int8(const uint8_t* p, int n) {
    if (n == 16) return load_int8(p);
    uint8_t part[16] = {};
    for (int i = 0; i < n; ++i) part[i] = p[i];
    return load_int8(part);
  }
  /// The first n lanes, rounded to bf16, into every second element from p on.
  static void store_alternate(uint16_t* p, F x, int n) {
    uint16_t all[16];
    store(all, x);
    for (int i = 0; i < n; ++i) p[2 * i] = all[i];
  }

  static F add(F x, F y) { return {_mm256_add_ps(x.a, y.a), _mm256_add_ps(x.b, y.b)}; }
  static F sub(F x, F y) { return {_mm256_sub_ps(x.a, y.a), _mm256_sub_ps(x.b, y.b)}; }
  static F mul(F x, F y) { return {_mm256_mul_ps(x.a, y.a), _mm256_mul_ps(x.b, y.b)}; }
  static F div(F x, F y) { return {_mm256_div_ps(x.a, y.a), _mm256_div_ps(x.b, y.b)}; }
  static F fma(F x, F y, F z) { return {_mm256_fmadd_ps(x.a, y.a, z.a), _mm256_fmadd_ps(x.b, y.b, z.b)}; }
  static F max(F x, F y) { return {_mm256_max_ps(x.a, y.a), _mm256_max_ps(x.b, y.b)}; }
  static F min(F x, F y) { return {_mm256_min_ps(x.a, y.a), _mm256_min_ps(x.b, y.b)}; }
  static F round(F x) { return {round(x.a), round(x.b)}; }
  /// x 2^n for an integer n; n below -126 or above 127 is taken as that.
  static F times_power_of_two(F x, F n) {
    return {_mm256_mul_ps(x.a, power(n.a)), _mm256_mul_ps(x.b, power(n.b))};
  }
  static F zero_if_below(F value, F x, F bound) {
    return {_mm256_andnot_ps(_mm256_cmp_ps(x.a, bound.a, _CMP_LT_OQ), value.a),
            _mm256_andnot_ps(_mm256_cmp_ps(x.b, bound.b, _CMP_LT_OQ), value.b)};
  }
  static F one_unless_up_to(F x, F bound) {
    const __m256 one = _mm256_set1_ps(1.0F);
    return {_mm256_and_ps(_mm256_cmp_ps(x.a, bound.a, _CMP_NLE_UQ), one),
            _mm256_and_ps(_mm256_cmp_ps(x.b, bound.b, _CMP_NLE_UQ), one)};
  }
  static F keep(F x, int n, F otherwise) {
    const W m = first(n);
    return {_mm256_blendv_ps(otherwise.a, x.a, _mm256_castsi256_ps(m.a)),
            _mm256_blendv_ps(otherwise.b, x.b, _mm256_castsi256_ps(m.b))};
  }

  static float sum(F x) {
    const __m256 h = _mm256_add_ps(x.a, x.b);
    const __m128 q = _mm_add_ps(_mm256_castps256_ps128(h), _mm256_extractf128_ps(h, 1));
    const __m128 e = _mm_add_ps(q, _mm_movehl_ps(q, q));
    return _mm_cvtss_f32(_mm_add_ss(e, _mm_shuffle_ps(e, e, 1)));
  }
  static float largest(F x) {
    const __m256 h = _mm256_max_ps(x.a, x.b);
    const __m128 q = _mm_max_ps(_mm256_castps256_ps128(h), _mm256_extractf128_ps(h, 1));
    const __m128 e = _mm_max_ps(q, _mm_movehl_ps(q, q));
    return _mm_cvtss_f32(_mm_max_ss(e, _mm_shuffle_ps(e, e, 1)));
  }

  static W words(const void* p) {
    const auto* at = static_cast<const __m256i*>(p);
    return {_mm256_loadu_si256(at), _mm256_loadu_si256(at + 1)};
  }
  static W words(const void* p, int n) {
    const W m = first(n);
    const auto* at = static_cast<const int*>(p);
    return {_mm256_maskload_epi32(at, m.a), _mm256_maskload_epi32(at + 8, m.b)};
  }
  static W every(const uint32_t* p) {
    const __m256i x = _mm256_set1_epi32(static_cast<int>(*p));
    return {x, x};
  }
  /// to[i][row] = word i of a row, for 16 words; the rows, at most 16, lie `stride` bytes apart.
  static void transpose_words(uint32_t* to, const char* from, int64_t stride, int rows) {
    for (int row = 0; row < rows; ++row) {
      uint32_t words[16];
      __builtin_memcpy(words, from + row * stride, sizeof words);
      for (int i = 0; i < 16; ++i) to[i * rows + row] = words[i];
    }
  }
  static void prefetch(const void* p) { _mm_prefetch(static_cast<const char*>(p), _MM_HINT_T0); }
  static void opaque(W& w) { asm volatile("" : "+x"(w.a), "+x"(w.b)); }
  static void opaque(F& x) { asm volatile("" : "+x"(x.a), "+x"(x.b)); }

  /// c + a.low b.low + a.high b.high in each lane, the low halves first.
  static F pair_step(F c, W x, W y) { return {pair_step(c.a, x.a, y.a), pair_step(c.b, x.b, y.b)}; }
  static F float_step(F c, W x, W y) {
    return {_mm256_fmadd_ps(_mm256_castsi256_ps(x.a), _mm256_castsi256_ps(y.a), c.a),
            _mm256_fmadd_ps(_mm256_castsi256_ps(x.b), _mm256_castsi256_ps(y.b), c.b)};
  }

 private:
  static W first(int n) {
    const __m256i count = _mm256_set1_epi32(n);
    return {_mm256_cmpgt_epi32(count, _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7)),
            _mm256_cmpgt_epi32(count, _mm256_setr_epi32(8, 9, 10, 11, 12, 13, 14, 15))};
  }
  static __m256 e4m3(__m128i x) {  // the sign reaches bits 15 and 14, of which the second is the exponent's
    const __m128i wide = _mm_slli_epi16(_mm_cvtepi8_epi16(x), 7);
    return _mm256_cvtph_ps(_mm_and_si128(wide, _mm_set1_epi16(static_cast<int16_t>(0xBF80))));
  }
  static __m256 low(__m256i x) { return _mm256_castsi256_ps(_mm256_slli_epi32(x, 16)); }
  static __m256 high(__m256i x) {
    return _mm256_castsi256_ps(_mm256_and_si256(x, _mm256_set1_epi32(static_cast<int>(0xFFFF0000))));
  }
  static __m256 pair_step(__m256 c, __m256i x, __m256i y) {
    return _mm256_fmadd_ps(high(x), high(y), _mm256_fmadd_ps(low(x), low(y), c));
  }
  static __m256 round(__m256 x) { return _mm256_round_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
  static __m256 power(__m256 n) {
    const __m256 bounded = _mm256_max_ps(_mm256_min_ps(n, _mm256_set1_ps(127.0F)), _mm256_set1_ps(-126.0F));
    return _mm256_castsi256_ps(
        _mm256_slli_epi32(_mm256_add_epi32(_mm256_cvtps_epi32(bounded), _mm256_set1_epi32(127)), 23));
  }
  static __m256 widen(__m128i x) {
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(x), 16));
  }
  /// To nearest even; NaN stays NaN.
  static __m128i narrow(__m256 x) {
    const __m256i bits = _mm256_castps_si256(x);
    const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
    const __m256i up = _mm256_add_epi32(bits, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7FFF)));
    const __m256i nan = _mm256_castps_si256(_mm256_cmp_ps(x, x, _CMP_UNORD_Q));
    const __m256i kept = _mm256_blendv_epi8(up, _mm256_or_si256(bits, _mm256_set1_epi32(0x400000)), nan);
    const __m256i shifted = _mm256_srli_epi32(kept, 16);
    return _mm_packus_epi32(_mm256_castsi256_si128(shifted), _mm256_extracti128_si256(shifted, 1));
  }
};

}  // namespace penstock::cpu
