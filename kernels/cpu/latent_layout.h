// Where a position's latent and rotated key stand in the paged cache of latents: one behind the other,
// positions of a block in order. In a cache of two-byte elements all are float16: the latent serves as K, of
// whose rounding a log-probability depends most (docs/architecture.md, "Numbers").
#pragma once

#include "kernels/ops.h"

namespace penstock::cpu {

struct LatentLayout {
  explicit LatentLayout(const LatentCacheView& c)
      : cache(c),
        element(c.dtype == DType::bf16 ? DType::f16 : c.dtype),
        width(c.latent_dim + c.rope_dim),
        bytes(static_cast<size_t>(width) * bytes_of(element)) {}

  const LatentCacheView& cache;
  DType element;
  int64_t width;  // L + r
  size_t bytes;   // of one position

  char* position(const BatchView& batch, int64_t row, int64_t position) const {
    const int64_t block = batch.block_table_RB[row * batch.table_stride + position / cache.block_size];
    return static_cast<char*>(cache.data) +
           static_cast<size_t>(block * cache.block_size + position % cache.block_size) * bytes;
  }
};

}  // namespace penstock::cpu
