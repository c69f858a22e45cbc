#include "kernels/cpu/latent_attention.h"

#include <algorithm>
#include <cstring>

#include "kernels/cpu/contract.h"
#include "kernels/cpu/rows.h"

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
  int64_t heads;  // H
  int64_t dim;    // d = L + r
};

LatentAttention::LatentAttention(const KernelTable& kernels, Team& team)
    : kernels_(kernels), team_(team), scratch_(static_cast<size_t>(team.size())) {}

void LatentAttention::operator()(const TensorView& out_THL, const TensorView& q_THd,
                                 const LatentCacheView& cache, const BatchView& batch, float scale) {
  const LatentShape shape = check_latent_attention(out_THL, q_THd, cache, batch);
  const int64_t dim = shape.latent + shape.rope;
  const Call call{out_THL, q_THd, LatentLayout(cache), batch, scale, shape.heads, dim};
  plan_units(call);
  for (Scratch& s : scratch_) {
    s.rows.fit(std::max(kRowsTogether, call.heads), dim, shape.latent);
    const auto extent = static_cast<size_t>(kExtent * dim);
    for (auto* v : {&s.positions, &s.keys})
      if (v->size() < extent) v->resize(extent);
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
  const auto widen = [&, format = scaled_format(kernels_, call.layout.element)](float* to, const char* from,
                                                                                int64_t count) {
    float scale = 0;
    std::memcpy(&scale, from, sizeof scale);
    format.widen(to, reinterpret_cast<const uint8_t*>(from) + sizeof scale, count, scale);
  };
  for (int64_t p = 0; p < here; ++p) {
    const char* from = call.layout.position(call.batch, row, first + p);
    float* to = scratch.positions.data() + p * d;
    if (call.layout.scaled) {
      const int64_t l = call.layout.cache.latent_dim;
      widen(to, from, l);
      widen(to + l, from + call.layout.key_at, d - l);
    } else if (call.layout.element == DType::f16) {
      kernels_.from_half(to, reinterpret_cast<const uint16_t*>(from), d);
    } else {
      std::memcpy(to, from, call.layout.bytes);
    }
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

void LatentAttention::attend_unit(const Call& call, const QueryUnit& unit, Scratch& scratch) const {
  const Queries queries = scratch.rows.begin(kernels_, call.q_THd, call.heads, unit, call.scale);
  const int64_t end = unit.seen(call.batch);
  for (int64_t first = 0; first < end; first += kExtent) {
    load_extent(call, unit.row, first, end, scratch);
    Extent extent{};
    for (int64_t g = 0; g < kGroups; ++g) {
      // Groups past the end repeat the first one: they are multiplied and then not seen.
      const int64_t tile = first + g * kGroup < end ? g * kGroup * call.dim : 0;
      extent.k[g] = extent.next_k[g] = scratch.keys.data() + tile;
      extent.v[g] = scratch.positions.data() + tile;
    }
    scratch.rows.look_at(first, call.batch, unit);
    kernels_.attend_floats(extent, queries);
  }
  scratch.rows.finish(kernels_, call.out_THL, call.heads, unit);
}

}  // namespace penstock::cpu
