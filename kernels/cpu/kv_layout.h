// Where a position's K and V stand inside a block of the paged cache; rope writes there, attention reads.
//
// A block holds, for each KV head, its K part and then its V part, block_size x d elements each. If
// block_size is a multiple of 16, a part is a row of tiles of 16 positions, arranged as attention multiplies
// them:
//   K tile: [d][16 positions] elements        V tile: [16 positions' words][d] words
// where a word is a float, or a pair of bf16 (positions 2j and 2j + 1). In a cache of two-byte elements K is
// kept as float16: it has the same bytes as bf16 and three more bits, and of all that is rounded to two bytes
// K moves a log-probability most (docs/architecture.md, "Numbers"). What float16 cannot hold is kept as its
// largest number. With any other block size a part is plainly [position][d], and attention copies it into
// tiles before it multiplies.
#pragma once

#include "kernels/ops.h"

namespace penstock::cpu {

constexpr int64_t kTilePositions = 16;

struct KvLayout {
  explicit KvLayout(const KvCacheView& c)
      : cache(c), pairs(c.dtype == DType::bf16), tiled(c.block_size % kTilePositions == 0) {}

  const KvCacheView& cache;
  bool pairs;
  bool tiled;

  size_t element_bytes() const { return pairs ? 2 : 4; }
  int64_t per_word() const { return pairs ? 2 : 1; }
  size_t tile_bytes() const { return static_cast<size_t>(kTilePositions * cache.head_dim) * element_bytes(); }

  /// The K (or V) part of one KV head of a block.
  char* part(int64_t block, int64_t kv_head, bool value) const {
    const int64_t index = (block * cache.kv_heads + kv_head) * 2 + (value ? 1 : 0);
    return static_cast<char*>(cache.data) +
           static_cast<size_t>(index * cache.block_size * cache.head_dim) * element_bytes();
  }
};

}  // namespace penstock::cpu
