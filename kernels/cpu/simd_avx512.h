// Sixteen lanes on AVX512 with BF16 instructions. Included by avx512.cpp alone, which is compiled for them.
// simd_portable.h lists what every such policy provides.
#pragma once

#include <immintrin.h>

#include <cstdint>

namespace penstock::cpu {

struct Avx512 {
  static constexpr const char* kName = "avx512bf16";
  static constexpr int kTileRows = 14;  // 28 sums, 2 weights and 1 input in 32 registers
  using F = __m512;                     // 16 floats
  using W = __m512i;                    // 16 words: a float or a pair of bf16 each

  static __mmask16 first(int n) { return static_cast<__mmask16>((1U << n) - 1); }

  static F zero() { return _mm512_setzero_ps(); }
  static F set(float x) { return _mm512_set1_ps(x); }
  static F load(const float* p) { return _mm512_loadu_ps(p); }
  static F load(const float* p, int n) { return _mm512_maskz_loadu_ps(first(n), p); }
  static void store(float* p, F x) { _mm512_storeu_ps(p, x); }
  static void store(float* p, F x, int n) { _mm512_mask_storeu_ps(p, first(n), x); }
  static F load(const uint16_t* p) { return widen(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p))); }
  static F load(const uint16_t* p, int n) { return widen(_mm256_maskz_loadu_epi16(first(n), p)); }
  static void store(uint16_t* p, F x) { _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), narrow(x)); }
  static void store(uint16_t* p, F x, int n) { _mm256_mask_storeu_epi16(p, first(n), narrow(x)); }
  static F load_half(const uint16_t* p) {
    return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
  }
  static void store_half(uint16_t* p, F x, int n) {
    _mm256_mask_storeu_epi16(p, first(n), _mm512_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
  }
  /// 2^-8 of sixteen FP8 E4M3 values (float16 with fewer bits, shifted into its place); NaN becomes a number.
  static F load_e4m3(const uint8_t* p) { return e4m3(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))); }
  static F load_e4m3(const uint8_t* p, int n) { return e4m3(_mm_maskz_loadu_epi8(first(n), p)); }
  static F load_int8(const uint8_t* p) { return int8(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))); }
  static F load_int8(const uint8_t* p, int n) { return int8(_mm_maskz_loadu_epi8(first(n), p)); }
  /// 32 values of E4M3 as bf16, 2^-8 of each. The exponent is moved to its place; of numbers below its range
  /// (0 to 7 times 2^-17) each has a place of its own.
  static void widen_e4m3(uint16_t* to, const uint8_t* from) {
    alignas(64) static constexpr uint16_t kSmall[32] = {0,        110 << 7, 111 << 7, 0x37C0,
                                                        112 << 7, 0x3820,   0x3840,   0x3860};
    const __m512i w = _mm512_cvtepu8_epi16(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(from)));
    const __m512i normal = _mm512_add_epi16(
        _mm512_slli_epi16(_mm512_and_si512(w, _mm512_set1_epi16(0x7F)), 4), _mm512_set1_epi16(112 << 7));
    const __m512i magnitude = _mm512_mask_permutexvar_epi16(
        normal, _mm512_testn_epi16_mask(w, _mm512_set1_epi16(0x78)), w, _mm512_load_si512(kSmall));
    const __m512i sign = _mm512_and_si512(_mm512_slli_epi16(w, 8), _mm512_set1_epi16(INT16_MIN));
    _mm512_storeu_si512(to, _mm512_or_si512(sign, magnitude));
  }
  /// The first n lanes, rounded to bf16, into every second element from p on.
  static void store_alternate(uint16_t* p, F x, int n) {
    const __m512i wide = _mm512_cvtepu16_epi32(narrow(x));
    const auto lanes = static_cast<__mmask32>(n == 16 ? 0x55555555U : 0x55555555U & ((1U << (2 * n)) - 1));
    _mm512_mask_storeu_epi16(p, lanes, wide);
  }

  static F add(F a, F b) { return _mm512_add_ps(a, b); }
  static F sub(F a, F b) { return _mm512_sub_ps(a, b); }
  static F mul(F a, F b) { return _mm512_mul_ps(a, b); }
  static F div(F a, F b) { return _mm512_div_ps(a, b); }
  static F fma(F a, F b, F c) { return _mm512_fmadd_ps(a, b, c); }  // a b + c
  static F max(F a, F b) { return _mm512_max_ps(a, b); }            // b if either is NaN
  static F min(F a, F b) { return _mm512_min_ps(a, b); }
  static F round(F x) { return _mm512_roundscale_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
  static F times_power_of_two(F x, F n) { return _mm512_scalef_ps(x, n); }
  /// `value` where not x < bound, else 0.
  static F zero_if_below(F value, F x, F bound) {
    return _mm512_mask_mov_ps(value, _mm512_cmp_ps_mask(x, bound, _CMP_LT_OQ), _mm512_setzero_ps());
  }
  /// 0 where x <= bound, else (NaN too) 1.
  static F one_unless_up_to(F x, F bound) {
    return _mm512_maskz_mov_ps(_mm512_cmp_ps_mask(x, bound, _CMP_NLE_UQ), _mm512_set1_ps(1.0F));
  }
  /// The first n lanes of x, the others from `otherwise`.
  static F keep(F x, int n, F otherwise) { return _mm512_mask_mov_ps(otherwise, first(n), x); }

  static float sum(F x) {
    const __m256 a = _mm256_add_ps(_mm512_castps512_ps256(x), upper(x));
    const __m128 b = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
    const __m128 c = _mm_add_ps(b, _mm_movehl_ps(b, b));
    return _mm_cvtss_f32(_mm_add_ss(c, _mm_shuffle_ps(c, c, 1)));
  }
  static float largest(F x) {
    const __m256 a = _mm256_max_ps(_mm512_castps512_ps256(x), upper(x));
    const __m128 b = _mm_max_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
    const __m128 c = _mm_max_ps(b, _mm_movehl_ps(b, b));
    return _mm_cvtss_f32(_mm_max_ss(c, _mm_shuffle_ps(c, c, 1)));
  }

  static W words(const void* p) { return _mm512_loadu_si512(p); }
  static W words(const void* p, int n) { return _mm512_maskz_loadu_epi32(first(n), p); }
  static W every(const uint32_t* p) { return _mm512_set1_epi32(static_cast<int>(*p)); }
  static void transpose_words(uint32_t* to, const char* from, int64_t stride, int rows) {
    __m512i a[16];
    __m512i b[16];
#pragma GCC unroll 16
    for (int row = 0; row < 16; ++row)
      a[row] = row < rows ? _mm512_loadu_si512(from + row * stride) : _mm512_setzero_si512();
      // Pairs of words, then fours, within 128 bits; then the 128 bits themselves.
#pragma GCC unroll 8
    for (int i = 0; i < 16; i += 2) {
      b[i] = _mm512_unpacklo_epi32(a[i], a[i + 1]);
      b[i + 1] = _mm512_unpackhi_epi32(a[i], a[i + 1]);
    }
#pragma GCC unroll 4
    for (int i = 0; i < 16; i += 4) {
      a[i] = _mm512_unpacklo_epi64(b[i], b[i + 2]);
      a[i + 1] = _mm512_unpackhi_epi64(b[i], b[i + 2]);
      a[i + 2] = _mm512_unpacklo_epi64(b[i + 1], b[i + 3]);
      a[i + 3] = _mm512_unpackhi_epi64(b[i + 1], b[i + 3]);
    }
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) {
      b[i] = _mm512_shuffle_i32x4(a[i], a[i + 4], 0x88);
      b[i + 4] = _mm512_shuffle_i32x4(a[i], a[i + 4], 0xDD);
      b[i + 8] = _mm512_shuffle_i32x4(a[i + 8], a[i + 12], 0x88);
      b[i + 12] = _mm512_shuffle_i32x4(a[i + 8], a[i + 12], 0xDD);
    }
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) {
      a[i] = _mm512_shuffle_i32x4(b[i], b[i + 8], 0x88);
      a[i + 4] = _mm512_shuffle_i32x4(b[i + 4], b[i + 12], 0x88);
      a[i + 8] = _mm512_shuffle_i32x4(b[i], b[i + 8], 0xDD);
      a[i + 12] = _mm512_shuffle_i32x4(b[i + 4], b[i + 12], 0xDD);
    }
    const __mmask16 lanes = first(rows);
#pragma GCC unroll 16
    for (int i = 0; i < 16; ++i) _mm512_mask_storeu_epi32(to + i * rows, lanes, a[i]);
  }
  static void prefetch(const void* p) {
    _mm_prefetch(static_cast<const char*>(p), _MM_HINT_T0);
  }
  static void opaque(W& w) {
    asm volatile("" : "+v"(w));
  }
  static void opaque(F& x) {
    asm volatile("" : "+v"(x));
  }

  /// c + a.low b.low + a.high b.high in each lane: one instruction, its order is the hardware's.
  static F pair_step(F c, W a, W b) {
    return _mm512_dpbf16_ps(c, (__m512bh)a,
                            (__m512bh)b);  // NOLINT: __m512bh has no other conversion in g++ 12
  }
  static F float_step(F c, W a, W b) {
    return _mm512_fmadd_ps(_mm512_castsi512_ps(a), _mm512_castsi512_ps(b), c);
  }

 private:
  static __m256 upper(F x) {
    return _mm256_castpd_ps(_mm512_extractf64x4_pd(_mm512_castps_pd(x), 1));
  }
  static F widen(__m256i x) {
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(x), 16));
  }
  static F e4m3(__m128i x) {  // the sign reaches bits 15 and 14, of which the second is the exponent's
    const __m256i wide = _mm256_slli_epi16(_mm256_cvtepi8_epi16(x), 7);
    return _mm512_cvtph_ps(_mm256_and_si256(wide, _mm256_set1_epi16(static_cast<int16_t>(0xBF80))));
  }
  static F int8(__m128i x) {
    return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(x));
  }
  static __m256i narrow(F x) {
    return (__m256i)_mm512_cvtneps_pbh(x);
  }  // NOLINT: as above
};

}  // namespace penstock::cpu
