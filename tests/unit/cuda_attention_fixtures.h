// For tests of attention on GPUs over a paged cache of K and V, in both places.
#pragma once

#include <string>

#include "runtime/model/kv_cache.h"
#include "tests/unit/cuda_batches.h"

namespace penstock::test {

/// What is computed in, and what the cache is kept in.
struct Format {
  DType dtype;
  DType cache;

  std::string text() const { return std::string(name_of(dtype)) + " over " + name_of(cache); }
};

struct Heads {
  int64_t h, g, d;
  int64_t block_size = 16;
};

class CudaAttention : public CudaBatches {
 protected:
  static constexpr int64_t kBlocksARow = 80;

  Batch batch(const std::vector<RowPart>& parts, int64_t block_size) {
    return CudaBatches::batch(parts, block_size, kRows * kBlocksARow);
  }

  Twin cache(const Heads& heads, DType dtype) {
    return bytes_of_ones(dtype, {kRows * kBlocksARow, 2, heads.g * heads.block_size,
                                 kv_vector_bytes(heads.d, dtype) / static_cast<int64_t>(bytes_of(dtype))});
  }
  static KvCacheView view(const Tensor& cache, const Heads& heads) {
    return {cache.view.data, cache.view.dtype, kRows * kBlocksARow, heads.g, heads.d, heads.block_size};
  }

  /// Attention outputs [tokens, H d] of `parts` of sequences whose projections are rows of
  /// qkv_N[row][position].
  std::vector<std::byte> attend(const std::vector<RowPart>& parts, const Heads& heads,
                                const Twin& cache_memory, const Twin& qkv_all, int64_t positions,
                                const Twin& angles) {
    const DType dtype = qkv_all.gpu.view.dtype;
    const Batch b = batch(parts, heads.block_size);
    std::vector<int32_t> which;
    for (const RowPart& part : parts)
      for (int64_t i = 0; i < part.count; ++i)
        which.push_back(static_cast<int32_t>(part.row * positions + part.start + i));
    const Twin rows = of(which);
    const int64_t tokens = b.gpu.tokens;
    const Twin qkv = poisoned(dtype, {tokens, qkv_all.gpu.view.dim(1)});
    const Twin q = poisoned(ops_->projection_dtype(dtype), {tokens, heads.h * heads.d}),
               out = poisoned(dtype, {tokens, heads.h * heads.d});
    ops_->gather_rows(qkv.gpu, qkv_all.gpu, rows.gpu.view.as<const int32_t>());
    ops_->rope_and_store(q.gpu, view(cache_memory.gpu, heads), qkv.gpu, {angles.gpu, heads.d, {}, {}, 0},
                         b.gpu);
    ops_->attention(out.gpu, q.gpu, view(cache_memory.gpu, heads), b.gpu, 0.2F);
    return bytes_of_rows(out.gpu, 0, tokens);
  }
};

}  // namespace penstock::test
