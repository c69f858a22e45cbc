// The innermost loop of the matrix product, and its way out. Written once, compiled for each instruction set.
//
// A weight is stored in panels of 32 rows of w_NK (columns of the result). A panel is a sequence of steps; a
// step is 32 words (128 bytes), one for each of its columns: two neighbouring k as a pair of bf16, or one k
// as a float. The input is repacked into tiles of up to 14 rows: for each step one word a row. So one step
// multiplies an M x 1 column of words by a 1 x 32 row of words into 2 M registers.
//
// Every element of the result is one chain of steps from k = 0 to K, whichever M the tile has and wherever
// the chain is laid aside in `sums` between two blocks of K. Hence the same bits for every number of rows.
#pragma once

#include <cstddef>
#include <cstdint>
#include <utility>

#include "kernels/cpu/kernel_table.h"

namespace penstock::cpu {

template <class V>
struct PairStep {
  static typename V::F step(typename V::F c, typename V::W a, typename V::W b) {
    return V::pair_step(c, a, b);
  }
};
template <class V>
struct FloatStep {
  static typename V::F step(typename V::F c, typename V::W a, typename V::W b) {
    return V::float_step(c, a, b);
  }
};

template <class V, class Step, int M, bool kStream>
void multiply_tile(const uint32_t* x, const char* w, int64_t steps, float* sums, bool fresh,
                   const char* ahead) {
  using F = typename V::F;
  F left[M];
  F right[M];
#pragma GCC unroll 14
  for (int m = 0; m < M; ++m) {
    left[m] = fresh ? V::zero() : V::load(sums + m * kPanel);
    right[m] = fresh ? V::zero() : V::load(sums + m * kPanel + 16);
  }
  for (int64_t s = 0; s < steps; ++s) {
    const auto w_left = V::words(w);
    const auto w_right = V::words(w + 64);
    V::prefetch(ahead);
    if constexpr (kStream) V::prefetch(ahead + 64);
#pragma GCC unroll 14
    for (int m = 0; m < M; ++m) {
      const auto x_m = V::every(x + m);
      left[m] = Step::step(left[m], x_m, w_left);
      right[m] = Step::step(right[m], x_m, w_right);
    }
    x += M;
    w += kStepBytes;
    ahead += kStream ? 128 : 64;
  }
#pragma GCC unroll 14
  for (int m = 0; m < M; ++m) {
    V::store(sums + m * kPanel, left[m]);
    V::store(sums + m * kPanel + 16, right[m]);
  }
}

/// y = sums + bias, or y += that; up to 32 columns of one row.
template <class V, class Y>
void finish_row(Y* y, const float* sums, const float* bias, int columns, bool add) {
  for (int c = 0; c < columns; c += 16) {
    const int n = columns - c < 16 ? columns - c : 16;
    auto value = V::load(sums + c);
    if (bias != nullptr) value = V::add(value, V::load(bias + c, n));
    if (add) value = V::add(V::load(y + c, n), value);
    V::store(y + c, value, n);
  }
}

/// to[s][row] = word s of a row, the rows `stride` bytes apart.
template <class V>
void pack_tile(uint32_t* to, const char* from, int64_t stride, int rows, int64_t steps) {
  int64_t s = 0;
  for (; s + 16 <= steps; s += 16) V::transpose_words(to + s * rows, from + s * 4, stride, rows);
  for (; s < steps; ++s)
    for (int row = 0; row < rows; ++row)
      __builtin_memcpy(to + s * rows + row, from + row * stride + s * 4, 4);
}

template <class V, class Step, bool kStream, size_t... kRows>
constexpr TileTable tile_table(std::index_sequence<kRows...>) {
  return {{multiply_tile<V, Step, static_cast<int>(kRows) + 1, kStream>...}};
}

template <class V>
constexpr void add_matmul(KernelTable& table) {
  table.tile_rows = V::kTileRows;
  using Rows = std::make_index_sequence<kTileRows>;
  table.pair_tile = tile_table<V, PairStep<V>, false>(Rows{});
  table.pair_tile_streaming = tile_table<V, PairStep<V>, true>(Rows{});
  table.float_tile = tile_table<V, FloatStep<V>, false>(Rows{});
  table.float_tile_streaming = tile_table<V, FloatStep<V>, true>(Rows{});
  table.pack_tile = pack_tile<V>;
  table.finish_row_f32 = finish_row<V, float>;
  table.finish_row_bf16 = finish_row<V, uint16_t>;
}

}  // namespace penstock::cpu
