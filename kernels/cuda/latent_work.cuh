// One call of latent attention on tensor cores, and what each of its blocks works on. All heads of a token
// read the same latents, so a sequence's query rows are its tokens times the heads: with up to 16 of them it
// is short (latent_short_rows.cu), with more it is long (latent_long_rows.cu). Keys are walked in tiles of
// 64; eight make an extent, which starts from nothing and is folded into the extents before it, in order.
// Both kernels multiply in the same order and share everything between the products (attention_softmax.cuh),
// so a row has the same bits in either.
//
// Extents are twice as long as those of attention.cu: what one leaves, 512 sums a query row, is as much as
// the latents of 28 keys, and long rows keep it outside their multiprocessor.
#pragma once

#include "kernels/cuda/attention_problem.cuh"
#include "kernels/cuda/attention_softmax.cuh"

namespace penstock::cuda {

constexpr int kLatentDim = 512;
constexpr int kLatentKey = kLatentDim + 64;  // the latent and the rotated key
constexpr int kLatentTilesPerExtent = 8;
constexpr int kLatentExtent = kLatentTilesPerExtent * kTileKeys;
constexpr int kLongLatentRows = 64;  // query rows of a block
/// What a block of long rows keeps of the extents folded so far.
constexpr size_t kTotalBytes = size_t{kLongLatentRows} * kLatentDim * sizeof(float);

struct LatentProblem : Problem {  // with one KV head
  const char* latents;
  float4* totals;  // kTotalBytes for each block of long rows
  int blocks;      // tiles of query rows, gaps included
  bool split;      // each extent is a unit of work, and its sums go to partial_acc, [tile row][extent][L]
};

/// A tile of query rows and the tiles of keys that it walks.
struct LatentUnit {
  QueryTile queries;
  int last_item;
  int before;  // positions that the sequence's first query does not bring itself
  int keys;    // that any of these queries sees
  int first_tile;
  int end_tile;
  int block;
  int extent;  // of a split row

  /// The row of q_THd and out_THL that query row `item` is.
  __device__ int64_t row_of(const LatentProblem& p, int item) const {
    return static_cast<int64_t>(queries.first_token) * p.heads + item;
  }
  /// How many positions it sees; none past the last.
  __device__ int seen(const LatentProblem& p, int item) const {
    return item <= last_item ? before + item / p.heads + 1 : 0;
  }
};

template <int kRows>
__device__ QueryTile latent_queries(const LatentProblem& p, int block) {
  if constexpr (kRows == kShortItems) return QueryTile::of_short_row(p, block);
  if (p.batch.tokens > p.batch.rows) return QueryTile::of_long_rows(p, block, kRows);
  // A token a row: no gaps.
  const int tiles = (p.heads + kRows - 1) / kRows;
  QueryTile made = QueryTile::of_short_row(p, block / tiles);
  made.first_item = block % tiles * kRows;
  made.mine = made.items(p) > kShortItems;
  return made;
}
/// How many tiles of query rows there may be.
template <int kRows>
int64_t latent_blocks(const LatentProblem& p) {
  if (kRows == kShortItems) return p.batch.rows;
  if (p.batch.tokens > p.batch.rows)
    return QueryTile::blocks_before(p.batch.tokens, p.batch.rows, p.group, kRows);
  return p.batch.rows * ((p.heads + kRows - 1) / kRows);
}

/// Where the part of an extent stands among all parts.
template <int kRows>
__device__ int64_t latent_part(const LatentProblem& p, int block, int row, int extent) {
  return (static_cast<int64_t>(block) * kRows + row) * p.extents + extent;
}

/// Calls f(unit) for every unit of this block of threads, in each thread alike: first extents first, because
/// all rows have one. Units come longest first; the order of blocks is turned round each time, so that none
/// has the longer one always.
template <int kRows, class F>
__device__ void for_each_unit(const LatentProblem& p, F f) {
  const int units = p.split ? p.blocks * p.extents : p.blocks;
  const auto blocks = static_cast<int>(gridDim.x);
  for (int round = 0; round * blocks < units; ++round) {
    const auto own = static_cast<int>(blockIdx.x);
    const int u = round * blocks + (round % 2 == 0 ? own : blocks - 1 - own);
    if (u >= units) continue;
    LatentUnit unit{latent_queries<kRows>(p, u % p.blocks)};
    if (!unit.queries.mine) continue;
    unit.block = u % p.blocks;
    unit.extent = u / p.blocks;
    unit.last_item = min(unit.queries.items(p), unit.queries.first_item + kRows) - 1;
    unit.before = p.batch.context_R[unit.queries.row] - unit.queries.count;
    unit.keys = unit.seen(p, unit.last_item);
    unit.first_tile = unit.extent * kLatentTilesPerExtent;
    unit.end_tile = (unit.keys + kTileKeys - 1) / kTileKeys;
    if (p.split) unit.end_tile = min(unit.end_tile, unit.first_tile + kLatentTilesPerExtent);
    if (unit.first_tile < unit.end_tile) f(unit);
  }
}

/// Either kind of rows, for caches of two-byte elements and, with scales, of one-byte elements.
void attend_short_latent_rows(cudaStream_t stream, const LatentProblem& p, DType cache, int grid);
void attend_long_latent_rows(cudaStream_t stream, const LatentProblem& p, DType cache, int grid);

}  // namespace penstock::cuda
