// One call of attention, and which query rows of it a block works on.
#pragma once

#include "kernels/cuda/attention.h"
#include "kernels/cuda/cache_types.cuh"

namespace penstock::cuda {

constexpr int kShortItems = 16;  // query rows, heads of a group counted: a sequence with more is long

struct Problem {
  __nv_bfloat16* out_THd;
  const void* q_THd;
  bool q_is_f32;
  const void* cache;
  const float* scales;  // of a cache of codes (kv_layout.h)
  BatchView batch;
  int heads;
  int kv_heads;
  int group;  // H / G
  int block_size;
  float scale_log2;
  float* partial_acc;        // [token][head][extent][d]
  float2* partial_base_sum;  // [token][head][extent]
  int extents;               // stride of the two
};

/// The query rows of one block of `kRows`: rows i of [0, items) are query i / group of the sequence, head
/// i % group of the group.
struct QueryTile {
  int row = 0;
  int first_token = 0;
  int count = 0;
  int first_item = 0;
  bool mine = false;

  /// Block `block` of those that work on long rows, `rows_a_block` query rows each.
  __device__ static QueryTile of_long_rows(const Problem& p, int block, int rows_a_block) {
    QueryTile made(p, row_of(p, block, rows_a_block));
    const int tile = block - first_block(p, made.row, rows_a_block);
    const int tiles = (made.items(p) + rows_a_block - 1) / rows_a_block;
    made.mine = made.items(p) > kShortItems && tile < tiles;
    made.first_item = (tiles - 1 - tile) * rows_a_block;  // the last tile sees most keys: begin with it
    return made;
  }
  __device__ static QueryTile of_short_row(const Problem& p, int row) {
    QueryTile made(p, row);
    made.mine = made.items(p) <= kShortItems;
    return made;
  }
  __device__ int items(const Problem& p) const { return count * p.group; }
  __device__ int token_of(const Problem& p, int item) const { return first_token + item / p.group; }

  /// Tiles of long rows are numbered with gaps, so that a row's first one follows from where its tokens
  /// begin: up to row r there are at most (tokens before r) group / rows_a_block + r of them.
  __host__ __device__ static int64_t blocks_before(int64_t tokens, int64_t rows, int group,
                                                   int rows_a_block) {
    return tokens * group / rows_a_block + rows;
  }

 private:
  __device__ QueryTile(const Problem& p, int sequence)
      : row(sequence),
        first_token(p.batch.row_start_R1[sequence]),
        count(p.batch.row_start_R1[sequence + 1] - first_token) {}
  __device__ static int first_block(const Problem& p, int row, int rows_a_block) {
    return static_cast<int>(blocks_before(p.batch.row_start_R1[row], row, p.group, rows_a_block));
  }
  __device__ static int row_of(const Problem& p, int block, int rows_a_block) {
    int low = 0;
    for (int high = static_cast<int>(p.batch.rows); high - low > 1;) {
      const int middle = (low + high) / 2;
      (first_block(p, middle, rows_a_block) <= block ? low : high) = middle;
    }
    return low;
  }
};

/// Elements i and i + 1 of q, rounded to float16; i is even.
__device__ inline uint32_t query_pair(const Problem& p, int64_t i) {
  float2 pair;
  if (p.q_is_f32)
    pair = *reinterpret_cast<const float2*>(static_cast<const float*>(p.q_THd) + i);
  else
    pair = __bfloat1622float2(
        *reinterpret_cast<const __nv_bfloat162*>(static_cast<const __nv_bfloat16*>(p.q_THd) + i));
  __half2 rounded;
  put(rounded.x, pair.x);
  put(rounded.y, pair.y);
  return reinterpret_cast<const uint32_t&>(rounded);
}

/// The fragments of two rows of queries, rows l / 4 and l / 4 + 8 of 16, that begin at elements first[0] and
/// first[1] of q; columns paired as those of the cache's keys (attention_tile.cuh).
template <class Cache, int kDim>
__device__ void load_queries(uint32_t (&q)[kDim / 16][4], const Problem& p, const int64_t (&first)[2],
                             int lane) {
#pragma unroll
  for (int k = 0; k < kDim / 16; ++k)
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      if constexpr (Cache::kScaled) {
        const int64_t at = first[r] + k * 16 + lane % 4 * 4;
        const uint32_t low = query_pair(p, at), high = query_pair(p, at + 2);
        q[k][r] = __byte_perm(low, high, 0x5410);
        q[k][r + 2] = __byte_perm(low, high, 0x7632);
      } else {
        const int64_t at = first[r] + k * 16 + lane % 4 * 2;
        q[k][r] = query_pair(p, at);
        q[k][r + 2] = query_pair(p, at + 8);
      }
    }
}

/// Writes this lane's share of a row, at(n, j) being its element j of tile n of 8 columns, j 0 or 1; as
/// add_values leaves it.
template <class Cache, int kDim, class Pair, class At, class Join>
__device__ void write_columns(Pair* row_d2, const At& at, const Join& join, int lane) {
  if constexpr (Cache::kScaled) {
#pragma unroll
    for (int n = 0; n < kDim / 16; ++n) {  // four neighbours of 16 columns
      row_d2[n * 8 + lane % 4 * 2] = join(at(2 * n, 0), at(2 * n + 1, 0));
      row_d2[n * 8 + lane % 4 * 2 + 1] = join(at(2 * n, 1), at(2 * n + 1, 1));
    }
  } else {
#pragma unroll
    for (int n = 0; n < kDim / 8; ++n) row_d2[n * 4 + lane % 4] = join(at(n, 0), at(n, 1));
  }
}

/// Long rows on Hopper's own tensor-core instructions (attention_hopper.cu), for heads of 64 and 128 on
/// devices of compute capability 9.0: the bits of the mma.sync kernels.
bool hopper_serves(int dim);
void attend_long_rows_on_hopper(cudaStream_t stream, const Problem& p, int dim, DType cache);

/// Short rows there, over a cache of two bytes a value (attention_short_hopper.cu).
bool hopper_serves_short_rows(int dim, int block_size);
/// `cache_rows`: vectors of the whole cache. Split, extents go to p.partial_acc and p.partial_base_sum.
void attend_short_rows_on_hopper(cudaStream_t stream, const Problem& p, int dim, int64_t cache_rows,
                                 bool split);

}  // namespace penstock::cuda
