#include "kernels/cpu/attention.h"

#include <algorithm>
#include <cstring>

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
  int64_t heads;  // H
  int64_t group;  // H / G
};

namespace {

/// Copies 16 positions of an untiled cache into tile form; positions from `end` on are left zero.
void copy_tile(const KvLayout& layout, const BatchView& batch, int64_t row, int64_t kv_head, int64_t first,
               int64_t end, bool value, char* to) {
  const int64_t d = layout.cache.head_dim;
  const int64_t per_word = layout.per_word();
  const size_t bytes = layout.element_bytes();
  const size_t from_scales = layout.scale_bytes(layout.cache.block_size);
  const size_t to_scales = layout.scale_bytes(kTilePositions);
  std::memset(to, 0, layout.tile_bytes);
  for (int64_t p = first; p < std::min(end, first + kTilePositions); ++p) {
    const int64_t block = batch.block_table_RB[row * batch.table_stride + p / layout.cache.block_size];
    const auto in_block = static_cast<size_t>(p % layout.cache.block_size);
    const char* part = layout.part(block, kv_head, value);
    const char* from = part + from_scales + in_block * static_cast<size_t>(d) * bytes;
    const int64_t i = p - first;
    if (layout.scaled)
      std::memcpy(to + static_cast<size_t>(i) * sizeof(float), part + in_block * sizeof(float),
                  sizeof(float));
    for (int64_t j = 0; j < d; ++j) {
      const int64_t element =
          value ? (i / per_word * d + j) * per_word + i % per_word : j * kTilePositions + i;
      std::memcpy(to + to_scales + static_cast<size_t>(element) * bytes,
                  from + static_cast<size_t>(j) * bytes, bytes);
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
      const size_t tile = position % size / static_cast<uint32_t>(kTilePositions) * layout.tile_bytes;
      k[g] = layout.part(block, kv_head, false) + tile;
      v[g] = layout.part(block, kv_head, true) + tile;
    } else {
      char* k_copy = copies + static_cast<size_t>(g) * layout.tile_bytes;
      char* v_copy = k_copy + kGroups * layout.tile_bytes;
      copy_tile(layout, batch, row, kv_head, first, end, false, k_copy);
      copy_tile(layout, batch, row, kv_head, first, end, true, v_copy);
      k[g] = k_copy;
      v[g] = v_copy;
    }
  }
}

auto attend_kernel(const KernelTable& kernels, DType cache) {
  switch (cache) {
    case DType::e4m3:
      return kernels.attend_e4m3;
    case DType::i8:
      return kernels.attend_int8;
    case DType::bf16:
      return kernels.attend_pairs;
    default:
      return kernels.attend_floats;
  }
}

}  // namespace

Attention::Attention(const KernelTable& kernels, Team& team)
    : kernels_(kernels), team_(team), scratch_(static_cast<size_t>(team.size())) {}

void Attention::operator()(const TensorView& out_THd, const TensorView& q_THd, const KvCacheView& cache,
                           const BatchView& batch, float scale) {
  const auto [h, g, d] = check_attention(out_THd, q_THd, cache, batch);
  const Call call{out_THd, q_THd, KvLayout(cache), batch, scale, h, h / g};
  plan_units(call);
  const size_t copied = call.layout.tiled ? 0 : 2 * kGroups * call.layout.tile_bytes / sizeof(uint32_t);
  for (Scratch& s : scratch_) {
    s.rows.fit(std::max(kRowsTogether, call.group), d, d);
    if (s.tiles.size() < copied) s.tiles.resize(copied);
  }
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
        units_.push_back({row, start + first, tile_start(count, pieces, piece + 1) - first, head * call.group,
                          call.group});
      }
  }
}

void Attention::attend_unit(const Call& call, const QueryUnit& unit, const QueryUnit& next,
                            Scratch& scratch) const {
  const KvLayout& layout = call.layout;
  const BatchView& batch = call.batch;
  const Queries queries = scratch.rows.begin(kernels_, call.q_THd, call.heads, unit, call.scale);
  const int64_t end = unit.seen(batch);
  const int64_t extents = tiles_for(end, kExtent);
  const auto attend = attend_kernel(kernels_, layout.cache.dtype);
  auto* copies = reinterpret_cast<char*>(scratch.tiles.data());
  const auto find = [&](const QueryUnit& of, int64_t e, const void** k, const void** v) {
    find_tiles(layout, batch, of.row, of.first_head / call.group, e, of.seen(batch), copies, k, v);
  };
  Extent extent{};
  const void* next_v[kGroups];
  find(unit, 0, extent.next_k, next_v);
  for (int64_t e = 0; e < extents; ++e) {
    std::copy_n(extent.next_k, kGroups, extent.k);
    std::copy_n(next_v, kGroups, extent.v);
    // Copied tiles have no next ones to fetch: they are copied when their turn comes.
    if (layout.tiled)
      e + 1 < extents ? find(unit, e + 1, extent.next_k, next_v) : find(next, 0, extent.next_k, next_v);
    else if (e > 0)
      find(unit, e, extent.k, extent.v);
    scratch.rows.look_at(e * kExtent, batch, unit);
    attend(extent, queries);
  }
  scratch.rows.finish(kernels_, call.out_THd, call.heads, unit);
}

}  // namespace penstock::cpu
