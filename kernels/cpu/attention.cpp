#include "kernels/cpu/attention.h"

#include <algorithm>
#include <cstring>
#include <limits>

#include "kernels/cpu/contract.h"
#include "kernels/cpu/number.h"

namespace penstock::cpu {
namespace {

// Query rows (tokens x heads of the group) that go through the KV together: K and V come from memory once for
// all of them, and their state (24 x d floats) stays in the L1 cache. Decides no bits.
constexpr int64_t kRowsTogether = 24;

}  // namespace

struct Attention::Call {
  TensorView out_THd;
  TensorView q_THd;
  KvLayout layout;
  const BatchView& batch;
  float scale;
  int64_t heads;   // H
  int64_t group;   // H / G
  int64_t dim;     // d
  int64_t padded;  // d rounded up to 16

  int64_t visible_to(const Unit& unit) const {
    return batch.positions_T[unit.first_token + unit.tokens - 1] + 1;
  }
};

void Attention::Scratch::fit(size_t rows, size_t dim, size_t padded, size_t copied_words) {
  const auto grow = [](auto& v, size_t n) {
    if (v.size() < n) v.resize(n);
  };
  grow(scores, rows * kExtent);
  for (auto* v : {&factors, &largest, &sum}) grow(*v, rows);
  grow(visible, rows);
  grow(q, rows * dim);
  grow(out, rows * padded);
  grow(row, dim);
  grow(tiles, copied_words);
}

namespace {

/// Copies 16 positions of an untiled cache into tile form; positions from `end` on are left zero.
void copy_tile(const KvLayout& layout, const BatchView& batch, int64_t row, int64_t kv_head, int64_t first,
               int64_t end, bool value, char* to) {
  const int64_t d = layout.cache.head_dim;
  const int64_t per_word = layout.per_word();
  const size_t bytes = layout.element_bytes();
  std::memset(to, 0, layout.tile_bytes());
  for (int64_t p = first; p < std::min(end, first + kTilePositions); ++p) {
    const int64_t block = batch.block_table_RB[row * batch.table_stride + p / layout.cache.block_size];
    const char* from =
        layout.part(block, kv_head, value) + static_cast<size_t>(p % layout.cache.block_size * d) * bytes;
    const int64_t i = p - first;
    for (int64_t j = 0; j < d; ++j) {
      const int64_t element =
          value ? (i / per_word * d + j) * per_word + i % per_word : j * kTilePositions + i;
      std::memcpy(to + static_cast<size_t>(element) * bytes, from + static_cast<size_t>(j) * bytes, bytes);
    }
  }
}

/// The tiles of one extent. Groups past the end repeat the first one: they are multiplied and then not seen.
void find_tiles(const KvLayout& layout, const BatchView& batch, int64_t row, int64_t kv_head, int64_t extent,
                int64_t end, char* copies, const void** k, const void** v) {
  for (int64_t g = 0; g < kGroups; ++g) {
    const int64_t first = extent * kExtent + g * kGroup;
    if (first >= end) {
      k[g] = k[0];
      v[g] = v[0];
    } else if (layout.tiled) {
      // In 32 bits, because divisions of 64 are several times slower and there are eight of them an extent.
      const auto size = static_cast<uint32_t>(layout.cache.block_size);
      const auto position = static_cast<uint32_t>(first);
      const int64_t block = batch.block_table_RB[row * batch.table_stride + position / size];
      const size_t tile = position % size / static_cast<uint32_t>(kTilePositions) * layout.tile_bytes();
      k[g] = layout.part(block, kv_head, false) + tile;
      v[g] = layout.part(block, kv_head, true) + tile;
    } else {
      char* k_copy = copies + static_cast<size_t>(g) * layout.tile_bytes();
      char* v_copy = k_copy + kGroups * layout.tile_bytes();
      copy_tile(layout, batch, row, kv_head, first, end, false, k_copy);
      copy_tile(layout, batch, row, kv_head, first, end, true, v_copy);
      k[g] = k_copy;
      v[g] = v_copy;
    }
  }
}

}  // namespace

Attention::Attention(const KernelTable& kernels, Team& team)
    : kernels_(kernels), team_(team), scratch_(static_cast<size_t>(team.size())) {}

void Attention::operator()(const TensorView& out_THd, const TensorView& q_THd, const KvCacheView& cache,
                           const BatchView& batch, float scale) {
  const auto [h, g, d] = check_attention(out_THd, q_THd, cache, batch);
  const Call call{out_THd, q_THd, KvLayout(cache), batch, scale, h, h / g, d, (d + 15) / 16 * 16};
  plan_units(call);
  const auto rows = static_cast<size_t>(std::max(kRowsTogether, call.group));
  const size_t copied = call.layout.tiled ? 0 : 2 * kGroups * call.layout.tile_bytes() / sizeof(uint32_t);
  for (Scratch& s : scratch_) s.fit(rows, static_cast<size_t>(d), static_cast<size_t>(call.padded), copied);
  const auto units = static_cast<int64_t>(units_.size());
  team_.share(units, 1, [&](int thread, int64_t begin, int64_t end) {
    for (int64_t u = begin; u < end; ++u) {
      const auto at = static_cast<size_t>(u);
      attend_unit(call, units_[at], units_[u + 1 < units ? at + 1 : at],
                  scratch_[static_cast<size_t>(thread)]);
    }
  });
}

void Attention::plan_units(const Call& call) {
  units_.clear();
  const int64_t most = std::max<int64_t>(1, kRowsTogether / call.group);
  for (int64_t row = 0; row < call.batch.rows; ++row) {
    const int64_t start = call.batch.row_start_R1[row];
    const int64_t count = call.batch.row_start_R1[row + 1] - start;
    const int64_t pieces = tiles_for(count, most);
    for (int64_t head = 0; head < call.layout.cache.kv_heads; ++head)
      for (int64_t piece = 0; piece < pieces; ++piece) {
        const int64_t first = tile_start(count, pieces, piece);
        units_.push_back({row, start + first, tile_start(count, pieces, piece + 1) - first, head});
      }
  }
}

void Attention::attend_unit(const Call& call, const Unit& unit, const Unit& next, Scratch& scratch) const {
  const KvLayout& layout = call.layout;
  const auto rows = static_cast<int>(unit.tokens * call.group);
  const auto query_at = [&](int row) {  // element of q and out where query row `row` of the unit starts
    const int64_t token = unit.first_token + row / call.group;
    return (token * call.heads + unit.kv_head * call.group + row % call.group) * call.dim;
  };

  // Queries into tiles, as floats.
  const int64_t tiles = tiles_for(rows, kQueryRows);
  for (int64_t t = 0; t < tiles; ++t) {
    const int64_t first = tile_start(rows, tiles, t);
    const int64_t m = tile_start(rows, tiles, t + 1) - first;
    for (int64_t row = 0; row < m; ++row) {
      const int64_t at = query_at(static_cast<int>(first + row));
      const float* q_d = scratch.row.data();
      if (call.q_THd.dtype == DType::bf16)
        kernels_.widen(scratch.row.data(), call.q_THd.as<const uint16_t>() + at, call.dim);
      else
        q_d = call.q_THd.as<const float>() + at;
      float* to = scratch.q.data() + first * call.dim + row;
      for (int64_t i = 0; i < call.dim; ++i) to[i * m] = q_d[i];
    }
  }

  std::fill_n(scratch.largest.begin(), rows, -std::numeric_limits<float>::infinity());
  std::fill_n(scratch.sum.begin(), rows, 0.0F);
  std::fill_n(scratch.out.begin(), rows * call.padded, 0.0F);
  const Queries queries{rows,
                        call.dim,
                        call.dim,
                        call.padded,
                        call.scale,
                        scratch.q.data(),
                        scratch.visible.data(),
                        scratch.scores.data(),
                        scratch.factors.data(),
                        scratch.largest.data(),
                        scratch.sum.data(),
                        scratch.out.data()};

  const int64_t end = call.visible_to(unit);
  const int64_t extents = tiles_for(end, kExtent);
  auto* copies = reinterpret_cast<char*>(scratch.tiles.data());
  Extent extent{};
  const void* next_v[kGroups];
  find_tiles(layout, call.batch, unit.row, unit.kv_head, 0, end, copies, extent.next_k, next_v);
  for (int64_t e = 0; e < extents; ++e) {
    std::copy_n(extent.next_k, kGroups, extent.k);
    std::copy_n(next_v, kGroups, extent.v);
    // Copied tiles have no next ones to fetch: they are copied when their turn comes.
    if (layout.tiled) {
      const bool last = e + 1 == extents;
      const Unit& then = last ? next : unit;
      find_tiles(layout, call.batch, then.row, then.kv_head, last ? 0 : e + 1,
                 last ? call.visible_to(next) : end, copies, extent.next_k, next_v);
    } else if (e > 0) {
      find_tiles(layout, call.batch, unit.row, unit.kv_head, e, end, copies, extent.k, extent.v);
    }
    auto visible = scratch.visible.begin();
    for (int64_t token = unit.first_token; token < unit.first_token + unit.tokens;
         ++token, visible += call.group) {
      const int64_t seen = call.batch.positions_T[token] + 1 - e * kExtent;
      std::fill_n(visible, call.group, static_cast<int32_t>(std::clamp<int64_t>(seen, 0, kExtent)));
    }
    (layout.pairs ? kernels_.attend_pairs : kernels_.attend_floats)(extent, queries);
  }

  for (int row = 0; row < rows; ++row) {
    const float* out = scratch.out.data() + row * call.padded;
    const float sum = scratch.sum[static_cast<size_t>(row)];
    if (call.out_THd.dtype == DType::bf16)
      kernels_.finish_query_bf16(call.out_THd.as<uint16_t>() + query_at(row), out, sum, call.dim);
    else
      kernels_.finish_query_f32(call.out_THd.as<float>() + query_at(row), out, sum, call.dim);
  }
}

}  // namespace penstock::cpu
