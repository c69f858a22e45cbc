// Short rows on Hopper, over a cache of two bytes a value. A block has one row (or, split, one extent of it)
// and one KV head. The copy engine brings tiles of K and V, as many under way as shared memory holds; four
// warps share each tile. A warp multiplies the scores of 16 keys; all of them pass through shared memory, and
// every warp weighs the whole tile, as the others do, for its own quarter of the result's columns. So the
// sums are attention.cu's, in its order, and a tile takes a quarter of the time it takes one warp: what
// counts with few rows, while with many the next tiles are under way sooner.
//
// Floor: reading K and V; at 3.0 TB/s a multiprocessor gets a tile of both (32 KiB with heads of 128) in 1.4
// us, in which its four schedulers issue 10,000 instructions; the four warps need about 3,000.
#include "kernels/cuda/attention_problem.cuh"
#include "kernels/cuda/attention_softmax.cuh"
#include "kernels/cuda/tensor_map.h"
#include "kernels/cuda/tile_copy.cuh"

namespace penstock::cuda {
namespace {

constexpr int kWarps = 4;
constexpr int kThreads = kWarps * kWarp;
constexpr int kBlocksAtOnce = 3;  // on a multiprocessor
constexpr int kStages = 2;        // tiles of K, and of V
constexpr int kChunkKeys = 16;    // copied as one: they lie in one block of the cache
constexpr int kTileChunks = kTileKeys / kChunkKeys;
constexpr int kCopiers = kTileChunks * kTilesPerExtent;  // lanes, each with every kCopiers-th chunk of a row
static_assert(kTileChunks == kWarps && kCopiers <= kWarp);

/// Shared memory of a block: tiles of K, tiles of V, and the scores of two tiles as fragments.
template <int kDim>
struct Layout {
  static constexpr int kChunk = kChunkKeys * kDim * 2;
  static constexpr int kTile = kTileChunks * kChunk;
  static constexpr int kValues = kStages * kTile;
  static constexpr int kScores = 2 * kValues;
  static constexpr int kScoreTile = kTileKeys / 8 * kWarp * static_cast<int>(sizeof(float4));
  static constexpr int kBytes = kScores + 2 * kScoreTile;
};

struct ShortRows {
  Problem p;
  CUtensorMap cache;  // rows of kDim values, in tiles of kChunkKeys
};

/// The copies of one block's tiles, by its first warp.
template <int kDim>
class Copies {
 public:
  __device__ Copies(const ShortRows& rows, Barrier* keys, Barrier* values, unsigned shared, int sequence,
                    int kv_head, int first_tile, int end_tile, int context)
      : rows_(rows),
        full_keys_(keys),
        full_values_(values),
        shared_(shared),
        sequence_(sequence),
        kv_head_(kv_head),
        first_tile_(first_tile),
        end_tile_(end_tile),
        context_(context),
        chunk_(first_tile * kTileChunks + static_cast<int>(threadIdx.x)) {
    find();
  }
  __device__ void start_keys(int tile) { start(tile, full_keys_, 0, 0); }
  /// After the tile's keys.
  __device__ void start_values(int tile) {
    start(tile, full_values_, Layout<kDim>::kValues, rows_.p.kv_heads * rows_.p.block_size);
    if (chunk_ / kTileChunks != tile) return;
    chunk_ += kCopiers;
    find();
  }

 private:
  /// Where this lane's next chunk begins, of K; of all tiles' four chunks each lane copies every kCopiers-th.
  __device__ void find() {
    const Problem& p = rows_.p;
    const int position = chunk_ * kChunkKeys;
    there_ = threadIdx.x < kCopiers && position < context_ && chunk_ / kTileChunks < end_tile_;
    if (!there_) return;
    const int block = p.batch.block_table_RB[sequence_ * p.batch.table_stride + position / p.block_size];
    place_ = (block * 2 * p.kv_heads + kv_head_) * p.block_size + position % p.block_size;
  }
  __device__ void start(int tile, Barrier* full, int tiles_at, int further) {
    if (tile >= end_tile_) return;
    const int stage = (tile - first_tile_) % kStages;
    if (threadIdx.x == 0) {
      const int chunks = min(kTileChunks, (context_ + kChunkKeys - 1) / kChunkKeys - tile * kTileChunks);
      full[stage].arrive_and_expect(chunks * Layout<kDim>::kChunk);
    }
    __syncwarp();
    if (there_ && chunk_ / kTileChunks == tile)
      read_panels(shared_ + static_cast<unsigned>(tiles_at + stage * Layout<kDim>::kTile +
                                                  chunk_ % kTileChunks * Layout<kDim>::kChunk),
                  rows_.cache, place_ + further, 0, full[stage]);
  }

  const ShortRows& rows_;
  Barrier* full_keys_;
  Barrier* full_values_;
  unsigned shared_;
  int sequence_, kv_head_, first_tile_, end_tile_, context_;
  int chunk_;  // this lane's next one
  int place_ = 0;
  bool there_ = false;
};

/// s = q k^T of the 16 keys of a chunk.
template <int kDim>
__device__ void score_chunk(float (&s)[2][4], const uint32_t (&q)[kDim / 16][4], unsigned chunk, int lane) {
  const int row = lane / 16 * 8 + lane % 8;
#pragma unroll
  for (int k = 0; k < kDim / 16; ++k) {
    uint32_t b[4];
    load_matrices(b, chunk + swizzled(kChunkKeys, row, 2 * k + lane / 8 % 2));
    multiply_add_f16(s[0], q[k], b[0], b[1]);
    multiply_add_f16(s[1], q[k], b[2], b[3]);
  }
}

/// acc += weights v for the columns from first_column on.
template <int kDim, int kTiles>
__device__ void add_columns(float (&acc)[kTiles][4], const float (&s)[kTileKeys / 8][4], unsigned tile,
                            int first_column, int lane) {
  const int row = lane / 8 % 2 * 8 + lane % 8;
#pragma unroll
  for (int k = 0; k < kTileChunks; ++k) {
    uint32_t p[4];
    pack_weights(p, s, k);
#pragma unroll
    for (int n = 0; n < kTiles / 2; ++n) {
      uint32_t b[4];
      load_matrices_transposed(b, tile + static_cast<unsigned>(k * Layout<kDim>::kChunk) +
                                      swizzled(kChunkKeys, row, first_column / 8 + 2 * n + lane / 16));
      multiply_add_bf16(acc[2 * n], p, b[0], b[1]);
      multiply_add_bf16(acc[2 * n + 1], p, b[2], b[3]);
    }
  }
}

/// Values of a tile past the context become zeros: a weight of zero times what was there might be no number.
template <int kDim>
__device__ void clear_values(unsigned char* tile, int keys) {
  constexpr int kPieces = kDim / 8;  // of 16 bytes a key
  for (int i = keys * kPieces + static_cast<int>(threadIdx.x); i < kTileKeys * kPieces; i += kThreads) {
    const int key = i / kPieces;
    *reinterpret_cast<uint4*>(tile + key / kChunkKeys * Layout<kDim>::kChunk +
                              swizzled(kChunkKeys, key % kChunkKeys, i % kPieces)) = {};
  }
}

/// Grid (R, G), or (R, G, extents) with kSplit.
template <int kDim, bool kSplit>
__global__ void __launch_bounds__(kThreads, kBlocksAtOnce)
    attend_short_rows(const __grid_constant__ ShortRows rows) {
  using Shape = Layout<kDim>;
  constexpr int kOwn = kDim / kWarps;  // columns of a warp
  extern __shared__ __align__(1024) unsigned char shared[];
  __shared__ Barrier full_keys[kStages], full_values[kStages];
  const Problem& p = rows.p;
  const QueryTile queries = QueryTile::of_short_row(p, static_cast<int>(blockIdx.x));
  if (!queries.mine) return;
  const int kv_head = static_cast<int>(blockIdx.y);
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  const int warp = static_cast<int>(threadIdx.x) / kWarp;
  const int context = p.batch.context_R[queries.row];
  const int last_item = queries.items(p) - 1;
  const int keys = p.batch.positions_T[queries.token_of(p, last_item)] + 1;  // that any of these queries sees
  const int first_tile = kSplit ? static_cast<int>(blockIdx.z) * kTilesPerExtent : 0;
  const int end_tile =
      min((keys + kTileKeys - 1) / kTileKeys, kSplit ? first_tile + kTilesPerExtent : INT32_MAX);
  if (first_tile >= end_tile) return;

  Copies<kDim> copies(rows, full_keys, full_values, shared_address(shared), queries.row, kv_head, first_tile,
                      end_tile, context);
  if (warp == 0) {
    if (lane == 0) {
      for (int i = 0; i < kStages; ++i) {
        full_keys[i].start(1);
        full_values[i].start(1);
      }
      publish_barriers();
    }
    __syncwarp();
    for (int i = 0; i < kStages; ++i) {
      copies.start_keys(first_tile + i);
      copies.start_values(first_tile + i);
    }
  }

  // This lane's two query rows; rows past the end see nothing and are not written.
  int token[2], head[2], seen[2];
  bool real[2];
  int64_t first[2];
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    const int item = lane / 4 + 8 * r;
    real[r] = item <= last_item;
    token[r] = real[r] ? queries.token_of(p, item) : queries.first_token;
    head[r] = kv_head * p.group + (real[r] ? item % p.group : 0);
    seen[r] = real[r] ? p.batch.positions_T[token[r]] + 1 : 0;
    first[r] = (static_cast<int64_t>(token[r]) * p.heads + head[r]) * kDim;
  }
  uint32_t q[kDim / 16][4];
  load_queries<NarrowCache, kDim>(q, p, first, lane);
  __syncthreads();  // the barriers are there

  WholeRows<kOwn> total;
  Softmax softmax;
  float acc[kOwn / 8][4] = {};
  softmax.clear();
  for (int tile = first_tile; tile < end_tile; ++tile) {
    const int step = tile - first_tile;
    const int stage = step % kStages;
    auto* const fragments = reinterpret_cast<float4*>(shared + Shape::kScores + step % 2 * Shape::kScoreTile);
    float own[2][4] = {};
    full_keys[stage].wait_for(step / kStages);
    score_chunk<kDim>(
        own, q, shared_address(shared) + static_cast<unsigned>(stage * Shape::kTile + warp * Shape::kChunk),
        lane);
#pragma unroll
    for (int n = 0; n < 2; ++n)
      fragments[(2 * warp + n) * kWarp + lane] = {own[n][0], own[n][1], own[n][2], own[n][3]};
    __syncthreads();  // all scores are there, and nobody reads these keys and the values before them any more
    if (warp == 0) {
      if (step > 0) copies.start_values(tile + kStages - 1);
      copies.start_keys(tile + kStages);
    }
    float s[kTileKeys / 8][4], shrink[2];
#pragma unroll
    for (int n = 0; n < kTileKeys / 8; ++n) {
      const float4 four = fragments[n * kWarp + lane];
      s[n][0] = four.x, s[n][1] = four.y, s[n][2] = four.z, s[n][3] = four.w;
    }
    const int visible[2] = {seen[0] - tile * kTileKeys, seen[1] - tile * kTileKeys};
    if (softmax.weigh(s, visible, p.scale_log2, lane, shrink)) multiply_rows<kOwn>(acc, shrink);
    full_values[stage].wait_for(step / kStages);
    unsigned char* const values = shared + Shape::kValues + stage * Shape::kTile;
    if ((tile + 1) * kTileKeys > context) {
      clear_values<kDim>(values, context - tile * kTileKeys);
      __syncthreads();
    }
    add_columns<kDim>(acc, s, shared_address(values), warp * kOwn, lane);

    if (!kSplit && ((tile + 1) % kTilesPerExtent == 0 || tile + 1 == end_tile)) {
      total.add(softmax, acc, p.scale_log2);
      softmax.clear();
#pragma unroll
      for (int n = 0; n < kOwn / 8; ++n)
        for (int j = 0; j < 4; ++j) acc[n][j] = 0;
    }
  }
  if constexpr (kSplit) softmax.close();
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    if (!real[r]) continue;
    if constexpr (kSplit) {
      const int64_t at = (static_cast<int64_t>(token[r]) * p.heads + head[r]) * p.extents + blockIdx.z;
      if (warp == 0 && lane % 4 == 0) p.partial_base_sum[at] = {softmax.base[r], softmax.sum[r]};
      write_columns<NarrowCache, kOwn>(
          reinterpret_cast<float2*>(p.partial_acc + at * kDim + warp * kOwn),
          [&](int n, int j) { return acc[n][2 * r + j]; }, make_float2, lane);
    } else {
      const float inverse = 1.0F / total.sum[r];
      write_columns<NarrowCache, kOwn>(
          reinterpret_cast<__nv_bfloat162*>(p.out_THd + first[r] + warp * kOwn),
          [&](int n, int j) { return total.acc[n][2 * r + j] * inverse; }, __floats2bfloat162_rn, lane);
    }
  }
}

template <int kDim, bool kSplit>
void launch(cudaStream_t stream, const Problem& p, int64_t cache_rows) {
  constexpr int kBytes = Layout<kDim>::kBytes;
  const auto kernel = attend_short_rows<kDim, kSplit>;
  check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, kBytes),
        "attention: shared memory");
  const ShortRows rows{p, map_panels(p.cache, cache_rows, kDim, kChunkKeys, kDim / kPanelColumns)};
  const dim3 grid(static_cast<unsigned>(p.batch.rows), static_cast<unsigned>(p.kv_heads),
                  kSplit ? static_cast<unsigned>(p.extents) : 1);
  kernel<<<grid, kThreads, kBytes, stream>>>(rows);
  check_launch("attention of short rows");
}

}  // namespace

bool hopper_serves_short_rows(int dim, int block_size) {
  return hopper_serves(dim) && block_size % kChunkKeys == 0;
}

void attend_short_rows_on_hopper(cudaStream_t stream, const Problem& p, int dim, int64_t cache_rows,
                                 bool split) {
  if (dim == 64)
    split ? launch<64, true>(stream, p, cache_rows) : launch<64, false>(stream, p, cache_rows);
  else
    split ? launch<128, true>(stream, p, cache_rows) : launch<128, false>(stream, p, cache_rows);
}

}  // namespace penstock::cuda
