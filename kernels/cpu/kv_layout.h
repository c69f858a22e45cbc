// Where a position's K and V stand inside a block of the paged cache; rope writes there, attention reads.
//
// A block holds, for each KV head, its K part and then its V part, block_size x d elements each. If
// block_size is a multiple of 16, a part is a row of tiles of 16 positions, arranged as attention multiplies
// them:
//   K tile: [d][16 positions] elements        V tile: [16 positions' words][d] words
// where a word is a float, or a pair of bf16 (positions 2j and 2j + 1). In a cache of two-byte elements K is
// kept as float16: it has the same bytes as bf16 and three more bits, and of all that is rounded to two bytes
// K moves a log-probability most (docs/architecture.md, "Numbers"). What float16 cannot hold is kept as its
// largest number. With any other block size a part is one tile of all its positions, plainly [position][d],
// and attention copies it into tiles of 16 before it multiplies.
//
// In a cache of one-byte elements (FP8 E4M3, int8) a tile begins with a float scale for each of its
// positions, and a word of V is one element.
#pragma once

#include <cstring>

#include "kernels/ops.h"
#include "runtime/model/kv_cache.h"

namespace penstock::cpu {

constexpr int64_t kTilePositions = 16;

struct KvLayout {
  explicit KvLayout(const KvCacheView& c)
      : cache(c),
        pairs(c.dtype == DType::bf16),
        scaled(has_scales(c.dtype)),
        tiled(c.block_size % kTilePositions == 0),
        part_bytes(static_cast<size_t>(c.block_size * kv_vector_bytes(c.head_dim, c.dtype))),
        tile_bytes(static_cast<size_t>(kTilePositions * kv_vector_bytes(c.head_dim, c.dtype))) {}

  const KvCacheView& cache;
  bool pairs;
  bool scaled;
  bool tiled;
  size_t part_bytes;
  size_t tile_bytes;  // of 16 positions

  size_t element_bytes() const { return bytes_of(cache.dtype); }
  int64_t per_word() const { return pairs ? 2 : 1; }
  /// Bytes before the elements of a tile of so many positions.
  size_t scale_bytes(int64_t positions) const {
    return scaled ? static_cast<size_t>(positions) * sizeof(float) : 0;
  }

  /// The K (or V) part of one KV head of a block.
  char* part(int64_t block, int64_t kv_head, bool value) const {
    const int64_t index = (block * cache.kv_heads + kv_head) * 2 + (value ? 1 : 0);
    return static_cast<char*>(cache.data) + static_cast<size_t>(index) * part_bytes;
  }
};

}  // namespace penstock::cpu
