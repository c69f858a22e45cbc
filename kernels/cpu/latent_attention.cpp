#include "kernels/cpu/latent_attention.h"

#include <algorithm>
#include <cstring>
#include <limits>

#include "kernels/cpu/contract.h"

namespace penstock::cpu {
namespace {

// Query rows (tokens x heads) for which an extent is brought into tiles once: doing that costs about as much
// as three rows' products, and their state (64 x 512 floats) stays in the L2 cache. Decides no bits.
constexpr int64_t kRowsTogether = 64;

}  // namespace

struct LatentAttention::Call {
  TensorView out_THL;
  TensorView q_THd;
  LatentLayout layout;
  const BatchView& batch;
  float scale;
  int64_t heads;   // H
  int64_t dim;     // d = L + r
  int64_t values;  // L
  int64_t padded;  // L rounded up to 16
};

LatentAttention::LatentAttention(const KernelTable& kernels, Team& team)
    : kernels_(kernels), team_(team), scratch_(static_cast<size_t>(team.size())) {}

void LatentAttention::operator()(const TensorView& out_THL, const TensorView& q_THd,
                                 const LatentCacheView& cache, const BatchView& batch, float scale) {
  const LatentShape shape = check_latent_attention(out_THL, q_THd, cache, batch);
  const int64_t l = shape.latent;
  const Call call{out_THL,        q_THd, LatentLayout(cache), batch, scale, shape.heads,
                  l + shape.rope, l,     (l + 15) / 16 * 16};
  plan_units(call);
  const auto rows = static_cast<size_t>(std::max(kRowsTogether, call.heads));
  const auto dim = static_cast<size_t>(call.dim);
  const auto grow = [](auto& v, size_t n) {
    if (v.size() < n) v.resize(n);
  };
  for (Scratch& s : scratch_) {
    grow(s.scores, rows * kExtent);
    for (auto* v : {&s.factors, &s.largest, &s.sum}) grow(*v, rows);
    grow(s.visible, rows);
    grow(s.q, rows * dim);
    grow(s.out, rows * static_cast<size_t>(call.padded));
    grow(s.positions, kExtent * dim);
    grow(s.keys, kExtent * dim);
  }
  team_.share(static_cast<int64_t>(units_.size()), 1, [&](int thread, int64_t begin, int64_t end) {
    for (int64_t u = begin; u < end; ++u)
      attend_unit(call, units_[static_cast<size_t>(u)], scratch_[static_cast<size_t>(thread)]);
  });
}

void LatentAttention::plan_units(const Call& call) {
  units_.clear();
  const int64_t most = std::max<int64_t>(1, kRowsTogether / call.heads);
  // With fewer sequences than threads the heads of a token are shared as well.
  const int64_t parts =
      std::clamp<int64_t>(team_.size() / std::max<int64_t>(1, call.batch.tokens), 1, call.heads);
  for (int64_t row = 0; row < call.batch.rows; ++row) {
    const int64_t start = call.batch.row_start_R1[row];
    const int64_t count = call.batch.row_start_R1[row + 1] - start;
    const int64_t pieces = tiles_for(count, most);
    for (int64_t piece = 0; piece < pieces; ++piece)
      for (int64_t part = 0; part < parts; ++part) {
        const int64_t first = tile_start(count, pieces, piece);
        const int64_t head = tile_start(call.heads, parts, part);
        units_.push_back({row, start + first, tile_start(count, pieces, piece + 1) - first, head,
                          tile_start(call.heads, parts, part + 1) - head});
      }
  }
}

/// Positions [first, first + 64) below `end`: rows to scratch.positions, K tiles to scratch.keys, where
/// positions from `end` on are zero.
void LatentAttention::load_extent(const Call& call, int64_t row, int64_t first, int64_t end,
                                  Scratch& scratch) const {
  const int64_t d = call.dim;
  const int64_t here = std::min<int64_t>(kExtent, end - first);
  for (int64_t p = 0; p < here; ++p) {
    const char* from = call.layout.position(call.batch, row, first + p);
    float* to = scratch.positions.data() + p * d;
    if (call.layout.element == DType::f16)
      kernels_.from_half(to, reinterpret_cast<const uint16_t*>(from), d);
    else
      std::memcpy(to, from, call.layout.bytes);
  }
  const int64_t filled = (here + kGroup - 1) / kGroup * kGroup;
  std::fill_n(scratch.positions.begin() + here * d, (filled - here) * d, 0.0F);
  for (int64_t g = 0; g < filled / kGroup; ++g) {
    const float* from = scratch.positions.data() + g * kGroup * d;
    float* to = scratch.keys.data() + g * kGroup * d;
    // In squares of 16, which stay in the L1 cache.
    for (int64_t j0 = 0; j0 < d; j0 += 16)
      for (int64_t p = 0; p < kGroup; ++p)
        for (int64_t j = j0; j < std::min(d, j0 + 16); ++j) to[j * kGroup + p] = from[p * d + j];
  }
}

void LatentAttention::attend_unit(const Call& call, const Unit& unit, Scratch& scratch) const {
  const auto rows = static_cast<int>(unit.tokens * unit.heads);
  const auto head_at = [&](int64_t row) {  // which of all T x H heads query row `row` of the unit is
    return (unit.first_token + row / unit.heads) * call.heads + unit.first_head + row % unit.heads;
  };
  const int64_t tiles = tiles_for(rows, kQueryRows);
  for (int64_t t = 0; t < tiles; ++t) {
    const int64_t first = tile_start(rows, tiles, t);
    const int64_t m = tile_start(rows, tiles, t + 1) - first;
    for (int64_t row = 0; row < m; ++row) {
      const float* q_d = call.q_THd.as<const float>() + head_at(first + row) * call.dim;
      float* to = scratch.q.data() + first * call.dim + row;
      for (int64_t i = 0; i < call.dim; ++i) to[i * m] = q_d[i];
    }
  }
  std::fill_n(scratch.largest.begin(), rows, -std::numeric_limits<float>::infinity());
  std::fill_n(scratch.sum.begin(), rows, 0.0F);
  std::fill_n(scratch.out.begin(), rows * call.padded, 0.0F);
  const Queries queries{rows,
                        call.dim,
                        call.values,
                        call.padded,
                        call.scale,
                        scratch.q.data(),
                        scratch.visible.data(),
                        scratch.scores.data(),
                        scratch.factors.data(),
                        scratch.largest.data(),
                        scratch.sum.data(),
                        scratch.out.data()};

  const int64_t end = call.batch.positions_T[unit.first_token + unit.tokens - 1] + 1;
  for (int64_t first = 0; first < end; first += kExtent) {
    load_extent(call, unit.row, first, end, scratch);
    Extent extent{};
    for (int64_t g = 0; g < kGroups; ++g) {
      // Groups past the end repeat the first one: they are multiplied and then not seen.
      const int64_t tile = first + g * kGroup < end ? g * kGroup * call.dim : 0;
      extent.k[g] = extent.next_k[g] = scratch.keys.data() + tile;
      extent.v[g] = scratch.positions.data() + tile;
    }
    auto visible = scratch.visible.begin();
    for (int64_t token = unit.first_token; token < unit.first_token + unit.tokens;
         ++token, visible += unit.heads) {
      const int64_t seen = call.batch.positions_T[token] + 1 - first;
      std::fill_n(visible, unit.heads, static_cast<int32_t>(std::clamp<int64_t>(seen, 0, kExtent)));
    }
    kernels_.attend_floats(extent, queries);
  }

  for (int row = 0; row < rows; ++row) {
    const float* out = scratch.out.data() + row * call.padded;
    const float sum = scratch.sum[static_cast<size_t>(row)];
    const int64_t to = head_at(row) * call.values;
    if (call.out_THL.dtype == DType::bf16)
      kernels_.finish_query_bf16(call.out_THL.as<uint16_t>() + to, out, sum, call.values);
    else
      kernels_.finish_query_f32(call.out_THL.as<float>() + to, out, sum, call.values);
  }
}

}  // namespace penstock::cpu
