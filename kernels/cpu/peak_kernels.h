// The bounds a processor sets: multiply-adds on registers alone, and reading memory alone.
#pragma once

#include "kernels/cpu/matmul_tile.h"

namespace penstock::cpu {

/// `flops_a_step` counts each multiplication and each addition of one step on 16 lanes.
template <class V, class Step, int kFlopsAStep>
int64_t multiply_add_peak(int64_t rounds) {
  constexpr int kChains = 24;
  typename V::F sums[kChains];
#pragma GCC unroll 24
  for (int i = 0; i < kChains; ++i) {
    sums[i] = V::zero();
    V::opaque(sums[i]);  // or the compiler would find all chains equal and keep one
  }
  const uint32_t zero = 0;
  typename V::W a = V::every(&zero);
  const typename V::W b = V::every(&zero);
  for (int64_t r = 0; r < rounds; ++r) {
    V::opaque(a);  // so that no round is left out
#pragma GCC unroll 24
    for (int i = 0; i < kChains; ++i) sums[i] = Step::step(sums[i], a, b);
  }
#pragma GCC unroll 24
  for (int i = 1; i < kChains; ++i) sums[0] = V::add(sums[0], sums[i]);
  return rounds * kChains * kFlopsAStep + static_cast<int64_t>(V::sum(sums[0]));
}

template <class V>
float read_all(const void* p, int64_t bytes) {
  const auto* at = static_cast<const char*>(p);
  typename V::F sums[4] = {V::zero(), V::zero(), V::zero(), V::zero()};
  for (int64_t i = 0; i + 256 <= bytes; i += 256)
#pragma GCC unroll 4
    for (int j = 0; j < 4; ++j) {
      sums[j] = V::add(sums[j], V::load(reinterpret_cast<const float*>(at + i + j * 64)));
      V::prefetch(at + i + j * 64 + 4096);
    }
  return V::sum(V::add(V::add(sums[0], sums[1]), V::add(sums[2], sums[3])));
}

template <class V>
constexpr void add_peak(KernelTable& table) {
  table.pair_peak = multiply_add_peak<V, PairStep<V>, 64>;
  table.float_peak = multiply_add_peak<V, FloatStep<V>, 32>;
  table.read_all = read_all<V>;
}

}  // namespace penstock::cpu
