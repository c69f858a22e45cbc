// Where a position's latent and rotated key stand in the paged cache of latents: one behind the other,
// positions of a block in order. In a cache of two-byte elements all are float16: the latent serves as K, of
// whose rounding a log-probability depends most (docs/architecture.md, "Numbers"). In one of one-byte
// elements the latent and the key each follow a float scale of their own.
#pragma once

#include "kernels/ops.h"
#include "runtime/model/kv_cache.h"

namespace penstock::cpu {

struct LatentLayout {
  explicit LatentLayout(const LatentCacheView& c)
      : cache(c),
        element(c.dtype == DType::bf16 ? DType::f16 : c.dtype),
        scaled(has_scales(c.dtype)),
        key_at(static_cast<size_t>(kv_vector_bytes(c.latent_dim, element))),
        bytes(static_cast<size_t>(latent_position_bytes(c.latent_dim, c.rope_dim, element))) {}

  const LatentCacheView& cache;
  DType element;
  bool scaled;
  size_t key_at;  // where the rotated key begins
  size_t bytes;   // of one position

  char* position(const BatchView& batch, int64_t row, int64_t position) const {
    const int64_t block = batch.block_table_RB[row * batch.table_stride + position / cache.block_size];
    return static_cast<char*>(cache.data) +
           static_cast<size_t>(block * cache.block_size + position % cache.block_size) * bytes;
  }
};

}  // namespace penstock::cpu
