// Where K and V stand in this back end's paged cache: values of all blocks, [block][K or V][G][position][d],
// which tensor cores load as tiles of positions. In a cache of one byte a value their scales follow, floats
// in the same order, [block][K or V][G][position]: so each vector of codes begins at a multiple of 16 bytes,
// as copies into shared memory want it, whatever the size of a block.
#pragma once

#include "kernels/ops.h"
#include "runtime/model/kv_cache.h"

namespace penstock::cuda {

/// Null where a cache has none.
inline float* scales_of(const KvCacheView& cache) {
  if (!has_scales(cache.dtype)) return nullptr;
  const int64_t codes = cache.blocks * 2 * cache.kv_heads * cache.block_size * cache.head_dim;
  return reinterpret_cast<float*>(static_cast<char*>(cache.data) + codes);
}

}  // namespace penstock::cuda
