// One extent (64 positions) of attention for the query rows that share a KV head: scores, online softmax,
// weighted sum. Written once, compiled for each instruction set.
//
// The arithmetic of one query row does not depend on the others: a score is one chain over d; a row's weights
// are summed in one order over the 64 positions, where unseen ones count exactly 0; its output is one chain
// over the positions, multiplied at the start of each extent by exp(old maximum - new maximum). A row that
// sees nothing of an extent is multiplied by exactly 1 and gains exactly 0. So a token gets the same bits in
// a prefill, a chunk or a decode.
//
// Where positions have scales, codes are multiplied as they are: a score is then multiplied by its position's
// K scale, and a weight, once it has been summed, by its position's V scale.
#pragma once

#include "kernels/cpu/matmul_tile.h"
#include "kernels/cpu/scaled_rows.h"
#include "kernels/cpu/vector_math.h"

namespace penstock::cpu {

template <class V, class Step, int M>
void score_tile(const float* q, const Extent& e, const void* const* ahead_g, int64_t dim, float* scores) {
  using F = typename V::F;
  using Key = typename Step::Key;
  constexpr int kLines =
      kGroups * kGroup * static_cast<int>(sizeof(Key)) / 64;  // of the next tile, each step
  const auto at = [](const void* tile, int64_t i) {
    return reinterpret_cast<const Key*>(static_cast<const char*>(tile) + Step::kScaleBytes) + i * kGroup;
  };
  F sums[M][kGroups];
#pragma GCC unroll 6
  for (int m = 0; m < M; ++m)
#pragma GCC unroll 4
    for (int g = 0; g < kGroups; ++g) sums[m][g] = V::zero();
  // Meanwhile this extent's V comes in, tile after tile: runs of 4 KiB are read from memory half as fast
  // again as lines here and there. The next K comes in while V is multiplied. No further ahead: all tiles
  // start at the same sets of the L1 cache, and three times four of them are all it holds.
  int64_t i = 0;
  for (int next = 0; next < kGroups; ++next) {
    const auto* ahead = static_cast<const char*>(ahead_g[next]);
    if constexpr (Step::kScaleBytes > 0) V::prefetch(ahead);
    ahead += Step::kScaleBytes;
    for (const int64_t end = dim * (next + 1) / kGroups; i < end; ++i) {
      const F k0 = Step::key(at(e.k[0], i));
      const F k1 = Step::key(at(e.k[1], i));
      const F k2 = Step::key(at(e.k[2], i));
      const F k3 = Step::key(at(e.k[3], i));
#pragma GCC unroll 4
      for (int line = 0; line < kLines; ++line) V::prefetch(ahead + line * 64);
      ahead += kLines * 64;
#pragma GCC unroll 6
      for (int m = 0; m < M; ++m) {
        const F q_m = V::set(q[m]);
        sums[m][0] = V::fma(q_m, k0, sums[m][0]);
        sums[m][1] = V::fma(q_m, k1, sums[m][1]);
        sums[m][2] = V::fma(q_m, k2, sums[m][2]);
        sums[m][3] = V::fma(q_m, k3, sums[m][3]);
      }
      q += M;
    }
  }
#pragma GCC unroll 6
  for (int m = 0; m < M; ++m)
#pragma GCC unroll 4
    for (int g = 0; g < kGroups; ++g) V::store(scores + m * kExtent + g * kGroup, sums[m][g]);
}

/// Scores of one row become weights, in place (as floats, or packed as bf16 at the row's start).
template <class V, class Step>
void softmax_row(const Queries& queries, const Extent& e, int row) {
  using F = typename V::F;
  float* scores = queries.scores + row * kExtent;
  const int visible = queries.visible[row];
  const F nothing = V::set(-__builtin_inff());
  const F scale = V::set(queries.scale);
  const auto seen = [&](int g) {
    const int n = visible - g * kGroup;
    return n < 0 ? 0 : n > kGroup ? kGroup : n;
  };
  F s[kGroups];
#pragma GCC unroll 4
  for (int g = 0; g < kGroups; ++g)
    s[g] = V::keep(V::mul(V::load(scores + g * kGroup), Step::scaled(scale, e.k[g])), seen(g), nothing);
  const float own = V::largest(V::max(V::max(s[0], s[1]), V::max(s[2], s[3])));
  const float before = queries.largest[row];
  const float largest = before > own ? before : own;
#pragma GCC unroll 4
  for (int g = 0; g < kGroups; ++g) s[g] = V::keep(exp<V>(V::sub(s[g], V::set(largest))), seen(g), V::zero());
  const float sum = V::sum(V::add(V::add(s[0], s[1]), V::add(s[2], s[3])));
  float factor[16];
  V::store(factor, exp<V>(V::set(before - largest)));
  queries.factors[row] = factor[0];
  queries.largest[row] = largest;
  queries.sum[row] = queries.sum[row] * factor[0] + sum;
#pragma GCC unroll 4
  for (int g = 0; g < kGroups; ++g)
    Step::store_weights(scores, g, Step::weight_of_codes(s[g], e.v[g], seen(g)));
}

template <class V, class Step, int M, int kColumns>
void value_tile(const Queries& queries, const Extent& e, const void* const* ahead_g, int row, int64_t column,
                int last_lanes, int positions) {
  using F = typename V::F;
  F sums[M][kColumns];
#pragma GCC unroll 6
  for (int m = 0; m < M; ++m)
#pragma GCC unroll 4
    for (int c = 0; c < kColumns; ++c)
      sums[m][c] = V::mul(V::load(queries.out + (row + m) * queries.padded_dim + column + c * 16),
                          V::set(queries.factors[row + m]));
  const float* weights = queries.scores + row * kExtent;
  const int64_t row_bytes = queries.dim * Step::kColumnBytes;
  constexpr int kRowsOfTile = kGroup / Step::kPositions;
  constexpr int kPieceBytes = 16 * Step::kColumnBytes;  // what 16 lanes take of a row of V
  constexpr int kAheadBytes = kColumns * kPieceBytes;   // of the next tile, each step
  const auto ahead_of = [&](int g) {
    return static_cast<const char*>(ahead_g[g]) + Step::kScaleBytes +
           column * kRowsOfTile * Step::kColumnBytes;
  };
  int g = 0;
  for (int first = 0; first < positions; first += kGroup, ++g) {
    const char* v = static_cast<const char*>(e.v[g]) + Step::kScaleBytes + column * Step::kColumnBytes;
    const char* ahead = ahead_of(g);
    if constexpr (Step::kScaleBytes > 0) V::prefetch(ahead_g[g]);
    const int here = positions - first < kGroup ? positions - first : kGroup;
    for (int i = 0; i < here; i += Step::kPositions) {
      typename Step::Value v_c[kColumns];
#pragma GCC unroll 4
      for (int c = 0; c < kColumns; ++c)
        v_c[c] = c + 1 < kColumns ? Step::value(v + c * kPieceBytes)
                                  : Step::value(v + c * kPieceBytes, last_lanes);
#pragma GCC unroll 4
      for (int byte = 0; byte < kAheadBytes; byte += 64)
        V::prefetch(ahead + byte);  // this part of the next tile, line after line
#pragma GCC unroll 6
      for (int m = 0; m < M; ++m) {
        const auto w_m = Step::every(weights + m * kExtent + (first + i) / Step::kPositions);
#pragma GCC unroll 4
        for (int c = 0; c < kColumns; ++c) sums[m][c] = Step::step(sums[m][c], w_m, v_c[c]);
      }
      v += row_bytes;
      ahead += kAheadBytes;
    }
  }
  for (; g < kGroups; ++g)
    for (int byte = 0; byte < kRowsOfTile * kAheadBytes; byte += 64) V::prefetch(ahead_of(g) + byte);
#pragma GCC unroll 6
  for (int m = 0; m < M; ++m)
#pragma GCC unroll 4
    for (int c = 0; c < kColumns; ++c)
      V::store(queries.out + (row + m) * queries.padded_dim + column + c * 16, sums[m][c]);
}

/// A V tile whose columns are words, and no scales.
template <class V>
struct WordTiles {
  static constexpr int kScaleBytes = 0;
  static constexpr int kColumnBytes = 4;
  using Value = typename V::W;
  static Value value(const char* p) { return V::words(p); }
  static Value value(const char* p, int n) { return V::words(p, n); }
  static Value every(const float* weight) { return V::every(reinterpret_cast<const uint32_t*>(weight)); }
  static typename V::F scaled(typename V::F scale, const void*) { return scale; }
  static typename V::F weight_of_codes(typename V::F weight, const void*, int) { return weight; }
};
template <class V, class Step>
struct PairAttention : Step, WordTiles<V> {
  static constexpr int kPositions = 2;
  using Key = uint16_t;  // float16
  static typename V::F key(const Key* p) { return V::load_half(p); }
  static void store_weights(float* scores, int group, typename V::F w) {
    V::store(reinterpret_cast<uint16_t*>(scores) + group * kGroup, w);
  }
};
template <class V, class Step>
struct FloatAttention : Step, WordTiles<V> {
  static constexpr int kPositions = 1;
  using Key = float;
  static typename V::F key(const Key* p) { return V::load(p); }
  static void store_weights(float* scores, int group, typename V::F w) {
    V::store(scores + group * kGroup, w);
  }
};

/// Codes of one byte behind their positions' scales; both are widened exactly and multiplied as floats.
template <class V, class Codes>
struct ScaledAttention {
  static constexpr int kPositions = 1;
  static constexpr int kScaleBytes = kGroup * 4;
  static constexpr int kColumnBytes = 1;
  using Key = uint8_t;
  using Value = typename V::F;
  static Value key(const Key* p) { return Codes::load(p); }
  static Value value(const char* p) { return Codes::load(reinterpret_cast<const uint8_t*>(p)); }
  static Value value(const char* p, int n) { return Codes::load(reinterpret_cast<const uint8_t*>(p), n); }
  static Value every(const float* weight) { return V::set(*weight); }
  static Value step(Value c, Value a, Value b) { return V::fma(a, b, c); }
  static Value scaled(Value factor, const void* tile) {
    return V::mul(factor, V::mul(V::load(static_cast<const float*>(tile)), V::set(Codes::kUnit)));
  }
  /// Positions from `seen` on count 0, whatever stands for their scales.
  static Value weight_of_codes(Value weight, const void* tile, int seen) {
    return V::keep(scaled(weight, tile), seen, V::zero());
  }
  static void store_weights(float* scores, int group, Value w) { V::store(scores + group * kGroup, w); }
};

template <class V, class Step, int M>
void value_columns(const Queries& queries, const Extent& e, const void* const* ahead_g, int row,
                   int positions) {
  for (int64_t column = 0; column < queries.value_dim; column += 64) {
    const int64_t left = queries.value_dim - column;
    const int lanes = left % 16 == 0 ? 16 : static_cast<int>(left % 16);
    if (left > 48)
      value_tile<V, Step, M, 4>(queries, e, ahead_g, row, column, left >= 64 ? 16 : lanes, positions);
    else if (left > 32)
      value_tile<V, Step, M, 3>(queries, e, ahead_g, row, column, lanes, positions);
    else if (left > 16)
      value_tile<V, Step, M, 2>(queries, e, ahead_g, row, column, lanes, positions);
    else
      value_tile<V, Step, M, 1>(queries, e, ahead_g, row, column, lanes, positions);
  }
}

template <class V, class Step, int M>
void attend_tile(const Extent& e, const Queries& queries, int row, bool prefetch) {
  score_tile<V, Step, M>(queries.q + row * queries.dim, e, prefetch ? e.v : e.k, queries.dim,
                         queries.scores + row * kExtent);
  int positions = 0;
  for (int m = row; m < row + M; ++m) {
    softmax_row<V, Step>(queries, e, m);
    if (queries.visible[m] > positions) positions = queries.visible[m];
  }
  value_columns<V, Step, M>(queries, e, prefetch ? e.next_k : e.v, row, positions);
}

template <class V, class Step>
void attend(const Extent& e, const Queries& queries) {
  const int64_t tiles = tiles_for(queries.rows, kQueryRows);
  for (int64_t t = 0; t < tiles; ++t) {
    const auto row = static_cast<int>(tile_start(queries.rows, tiles, t));
    const bool prefetch = t == 0;
    switch (static_cast<int>(tile_start(queries.rows, tiles, t + 1)) - row) {
      case 1:
        attend_tile<V, Step, 1>(e, queries, row, prefetch);
        break;
      case 2:
        attend_tile<V, Step, 2>(e, queries, row, prefetch);
        break;
      case 3:
        attend_tile<V, Step, 3>(e, queries, row, prefetch);
        break;
      case 4:
        attend_tile<V, Step, 4>(e, queries, row, prefetch);
        break;
      case 5:
        attend_tile<V, Step, 5>(e, queries, row, prefetch);
        break;
      default:
        attend_tile<V, Step, 6>(e, queries, row, prefetch);
        break;
    }
  }
}

template <class V, class To>
void finish_query(To* to, const float* out, float sum, int64_t dim) {
  for (int64_t i = 0; i < dim; i += 16) {
    const int n = dim - i < 16 ? static_cast<int>(dim - i) : 16;
    V::store(to + i, V::div(V::load(out + i), V::set(sum)), n);
  }
}

template <class V>
constexpr void add_attention(KernelTable& table) {
  table.attend_pairs = attend<V, PairAttention<V, PairStep<V>>>;
  table.attend_floats = attend<V, FloatAttention<V, FloatStep<V>>>;
  table.attend_e4m3 = attend<V, ScaledAttention<V, E4m3Codes<V>>>;
  table.attend_int8 = attend<V, ScaledAttention<V, Int8Codes<V>>>;
  table.finish_query_f32 = finish_query<V, float>;
  table.finish_query_bf16 = finish_query<V, uint16_t>;
}

}  // namespace penstock::cpu
