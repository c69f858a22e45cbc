// Tensor-core attention. A row's queries, packed with the heads that share a KV head, are cut into tiles of
// query rows; keys are walked in tiles of 64, four tiles make an extent of 256 keys. An extent starts from
// nothing and is folded into the extents before it, in order. Three launches share that arithmetic:
//   - long rows (prefill): four warps a block, 64 query rows, all extents in order;
//   - short rows (decode, at most 16 query rows), one warp a block, all extents in order;
//   - short rows again when there are too few of them to fill the device: one warp for each extent, then a
//     second kernel folds the extents in order.
// On Hopper long rows, and short rows over two bytes a value in blocks of a multiple of 16, have kernels of
// their own (attention_hopper.cu, attention_short_hopper.cu) with the same bits.
#include <type_traits>

#include "kernels/cuda/attention_problem.cuh"
#include "kernels/cuda/attention_tile.cuh"
#include "kernels/cuda/kv_layout.h"

namespace penstock::cuda {
namespace {

constexpr int kLongWarps = 4;
constexpr int kLongRows = kLongWarps * kWarpRows;  // query rows of a block
constexpr int kFoldHeads = 4;                      // of a block that folds
constexpr float kLog2E = 1.4426950408889634F;

/// Where a key lies in the cache, -1 past the context: its first element, or of a cache of codes, where 32
/// bits are enough, its row of d codes.
template <class Cache>
using Place = std::conditional_t<Cache::kScaled, int32_t, int64_t>;

/// Starts copying one tile of K or V into shared memory; positions from `context` on become zeros.
template <class Cache, int kDim, int kThreads>
__device__ void start_tile(unsigned char* tile, const Problem& p, const Place<Cache> (&places)[kTileKeys],
                           Place<Cache> to_values) {
  using Shape = Tile<Cache, kDim>;
  constexpr int kChunks = Shape::kChunks;
  constexpr int kCopies = kTileKeys * kChunks;
  auto* const shared = reinterpret_cast<typename Shape::Element*>(tile);
  const auto* const cache = static_cast<const typename Shape::Element*>(p.cache);
#pragma unroll 4
  for (int i = 0; i < (kCopies + kThreads - 1) / kThreads; ++i) {
    const int chunk = i * kThreads + static_cast<int>(threadIdx.x);
    if (kCopies % kThreads != 0 && chunk >= kCopies) break;
    const int key = chunk / kChunks;
    const Place<Cache> place = places[key];
    const auto* from = cache + chunk % kChunks * Shape::kPerChunk;
    if constexpr (Cache::kScaled)
      from += static_cast<int64_t>(max(place, 0) + to_values) * kDim;
    else
      from = cache + (place < 0 ? 0 : place + to_values + chunk % kChunks * Shape::kPerChunk);
    start_copy(shared + Shape::at(key, chunk % kChunks), from, place < 0);
  }
  if constexpr (Cache::kScaled) {
    const unsigned scales = shared_address(tile + Shape::kElements);
#pragma unroll
    for (int key = static_cast<int>(threadIdx.x); key < kTileKeys; key += kThreads)
      start_copy_of_4(scales + static_cast<unsigned>(key) * 4, p.scales + max(places[key], 0) + to_values,
                      places[key] < 0);
  }
  close_copies();
}

template <class Cache, int kDim, int kThreads>
__device__ void find_tile(Place<Cache> (&places)[kTileKeys], const Problem& p, int row, int kv_head, int tile,
                          int context) {
  for (int i = static_cast<int>(threadIdx.x); i < kTileKeys; i += kThreads) {
    const int position = tile * kTileKeys + i;
    Place<Cache> place = -1;
    if (position < context) {
      const Place<Cache> block = p.batch.block_table_RB[row * p.batch.table_stride + position / p.block_size];
      place = ((block * 2 * p.kv_heads + kv_head) * p.block_size + position % p.block_size) *
              (Cache::kScaled ? 1 : kDim);
    }
    places[i] = place;
  }
}

template <class Cache, int kDim, int kThreads>
__device__ void write_row(const Problem& p, int token, int head, const Total<kDim, kThreads>& total, int r,
                          int lane) {
  const float inverse = 1.0F / total.sum[r];
  write_columns<Cache, kDim>(
      reinterpret_cast<__nv_bfloat162*>(p.out_THd + (static_cast<int64_t>(token) * p.heads + head) * kDim),
      [&](int n, int j) { return total.at(n, 2 * r + j) * inverse; }, __floats2bfloat162_rn, lane);
}

template <class Cache, int kDim>
__device__ void write_partial(const Problem& p, int token, int head, int extent, const Partial<kDim>& part,
                              int r, int lane) {
  const int64_t at = (static_cast<int64_t>(token) * p.heads + head) * p.extents + extent;
  if (lane % 4 == 0) p.partial_base_sum[at] = {part.softmax.base[r], part.softmax.sum[r]};
  write_columns<Cache, kDim>(
      reinterpret_cast<float2*>(p.partial_acc + at * kDim),
      [&](int n, int j) { return part.acc[n][2 * r + j]; }, make_float2, lane);
}

struct Unused {
  __device__ explicit Unused(float*) {}
};

/// A warp alone keeps few tiles in shared memory so that many warps fit; four that share a tile can afford
/// two.
__host__ __device__ constexpr int buffers_for(int warps) {
  return warps == kLongWarps ? 2 : 1;
}

/// On a multiprocessor, at least. Warps alone over codes would take more registers than leave room for as
/// many of them as shared memory does.
template <class Cache>
__host__ __device__ constexpr int blocks_for(int warps, bool split) {
  return warps == kLongWarps ? 2 : Cache::kScaled && split ? 12 : 1;
}

/// Grid (tiles, G) for long rows, (R, G) for short ones, (R, G, extents) with kSplit.
template <class Cache, int kDim, int kWarps, bool kSplit>
__global__ void __launch_bounds__(kWarps* kWarp, blocks_for<Cache>(kWarps, kSplit))
    attend(const __grid_constant__ Problem p) {
  constexpr int kThreads = kWarps * kWarp;
  constexpr int kBuffers = buffers_for(kWarps);
  constexpr int kTile = Tile<Cache, kDim>::kBytes;
  extern __shared__ __align__(128) unsigned char tiles[];  // K and V of a tile, kBuffers times
  __shared__ Place<Cache> places[3][kTileKeys];            // of the tile in use and of the two that follow

  const auto block = static_cast<int>(blockIdx.x);
  const QueryTile queries =
      kWarps == 1 ? QueryTile::of_short_row(p, block) : QueryTile::of_long_rows(p, block, kLongRows);
  if (!queries.mine) return;
  const int kv_head = static_cast<int>(blockIdx.y);
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  const int context = p.batch.context_R[queries.row];
  const int last_item = min(queries.items(p), queries.first_item + kWarps * kWarpRows) - 1;
  const int keys = p.batch.positions_T[queries.token_of(p, last_item)] + 1;  // that any of these queries sees
  const int first_tile = kSplit ? static_cast<int>(blockIdx.z) * kTilesPerExtent : 0;
  const int end_tile =
      min((keys + kTileKeys - 1) / kTileKeys, kSplit ? first_tile + kTilesPerExtent : INT32_MAX);
  if (first_tile >= end_tile) return;

  // This lane's two query rows; rows past the end see nothing and are not written.
  int token[2], head[2], seen[2];
  bool real[2];
  int64_t first[2];
  uint32_t q[kDim / 16][4];
  for (int r = 0; r < 2; ++r) {
    const int item =
        queries.first_item + static_cast<int>(threadIdx.x) / kWarp * kWarpRows + lane / 4 + 8 * r;
    real[r] = item <= last_item;
    token[r] = real[r] ? queries.token_of(p, item) : queries.first_token;
    head[r] = kv_head * p.group + (real[r] ? item % p.group : 0);
    seen[r] = real[r] ? p.batch.positions_T[token[r]] + 1 : 0;
    first[r] = (static_cast<int64_t>(token[r]) * p.heads + head[r]) * kDim;
  }
  load_queries<Cache, kDim>(q, p, first, lane);

  const Place<Cache> to_values =
      static_cast<Place<Cache>>(p.kv_heads) * p.block_size * (Cache::kScaled ? 1 : kDim);
  const auto find =
      [&](int tile) {  // past the last tile nothing is copied, but zeros are written all the same
        find_tile<Cache, kDim, kThreads>(places[tile % 3], p, queries.row, kv_head, tile,
                                         tile < end_tile ? context : 0);
      };
  find(first_tile);
  find(first_tile + 1);
  __syncthreads();
  unsigned char* const k_first = tiles + first_tile % kBuffers * 2 * kTile;
  start_tile<Cache, kDim, kThreads>(k_first, p, places[first_tile % 3], 0);
  start_tile<Cache, kDim, kThreads>(k_first + kTile, p, places[first_tile % 3], to_values);

  // A split row's only extent needs no total.
  std::conditional_t<kSplit, Unused, Total<kDim, kThreads>> total(
      reinterpret_cast<float*>(tiles + kBuffers * 2 * kTile));
  Partial<kDim> part;
  part.clear();
  for (int tile = first_tile; tile < end_tile; ++tile) {
    const Place<Cache>(&next)[kTileKeys] = places[(tile + 1) % 3];
    const unsigned char* k_shared = tiles + tile % kBuffers * 2 * kTile;
    const unsigned char* v_shared = k_shared + kTile;
    unsigned char* const k_next = tiles + (tile + 1) % kBuffers * 2 * kTile;
    const int visible[2] = {seen[0] - tile * kTileKeys, seen[1] - tile * kTileKeys};
    float s[kTileKeys / 8][4], shrink[2];
    if constexpr (kBuffers == 2) {
      wait_for_copies<0>();
      __syncthreads();  // the tile is there, and nobody reads the one before it any more
      start_tile<Cache, kDim, kThreads>(k_next, p, next, 0);
      start_tile<Cache, kDim, kThreads>(k_next + kTile, p, next, to_values);
      find(tile + 2);
      score_tile<Cache, kDim>(s, q, k_shared, lane);
      if (part.softmax.weigh(s, visible, p.scale_log2, lane, shrink)) multiply_rows<kDim>(part.acc, shrink);
      add_values<Cache, kDim>(part.acc, s, v_shared, lane);
    } else {  // K of the next tile is copied while V of this one is used, and the other way round
      wait_for_copies<1>();
      __syncthreads();
      score_tile<Cache, kDim>(s, q, k_shared, lane);
      __syncthreads();
      start_tile<Cache, kDim, kThreads>(k_next, p, next, 0);
      find(tile + 2);
      if (part.softmax.weigh(s, visible, p.scale_log2, lane, shrink)) multiply_rows<kDim>(part.acc, shrink);
      wait_for_copies<1>();
      __syncthreads();
      add_values<Cache, kDim>(part.acc, s, v_shared, lane);
      __syncthreads();
      start_tile<Cache, kDim, kThreads>(k_next + kTile, p, next, to_values);
    }

    if ((tile + 1) % kTilesPerExtent == 0 || tile + 1 == end_tile) {
      part.softmax.close();
      if constexpr (!kSplit) {
        total.add(part, p.scale_log2);
        part.clear();
      }
    }
  }
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    if (!real[r]) continue;
    if constexpr (kSplit)
      write_partial<Cache>(p, token[r], head[r], static_cast<int>(blockIdx.z), part, r, lane);
    else
      write_row<Cache>(p, token[r], head[r], total, r, lane);
  }
}

/// The extents of split rows, in order: the same arithmetic as Total::add. One warp a head, kFoldHeads a
/// block; what some extents hold is read before the first of them is folded.
template <int kDim>
__global__ void __launch_bounds__(kFoldHeads* kWarp) fold_split_rows(const __grid_constant__ Problem p) {
  constexpr int kOwn = kDim < kWarp ? 1 : kDim / kWarp;  // columns of a lane
  constexpr int kAhead = 4;
  const QueryTile queries = QueryTile::of_short_row(p, p.batch.row_of_T[blockIdx.x]);
  if (!queries.mine) return;
  const int token = static_cast<int>(blockIdx.x);
  const int head = static_cast<int>(blockIdx.y) * kFoldHeads + static_cast<int>(threadIdx.x) / kWarp;
  const int column = static_cast<int>(threadIdx.x) % kWarp * kOwn;
  if (head >= p.heads || column >= kDim) return;
  const int extents = (p.batch.positions_T[token] + kExtentKeys) / kExtentKeys;
  const int64_t row = static_cast<int64_t>(token) * p.heads + head;
  const float2* base_sum = p.partial_base_sum + row * p.extents;
  const float* partial = p.partial_acc + row * p.extents * kDim + column;
  float base = kNothing, sum = 0, acc[kOwn] = {};
  for (int first = 0; first < extents; first += kAhead) {
    float2 read_base_sum[kAhead];
    float read[kAhead][kOwn];
#pragma unroll
    for (int e = 0; e < kAhead; ++e) {
      if (first + e >= extents) continue;
      read_base_sum[e] = base_sum[first + e];
#pragma unroll
      for (int i = 0; i < kOwn; ++i) read[e][i] = partial[(first + e) * kDim + i];
    }
#pragma unroll
    for (int e = 0; e < kAhead; ++e) {
      if (first + e >= extents || read_base_sum[e].x == kNothing) continue;
      const Fold fold(base, read_base_sum[e].x, p.scale_log2);
      base = fold.base;
      sum = fold(sum, read_base_sum[e].y);
#pragma unroll
      for (int i = 0; i < kOwn; ++i) acc[i] = fold(acc[i], read[e][i]);
    }
  }
  const float inverse = 1.0F / sum;
#pragma unroll
  for (int i = 0; i < kOwn; ++i) p.out_THd[row * kDim + column + i] = __float2bfloat16_rn(acc[i] * inverse);
}

template <class Cache, int kDim, int kWarps, bool kSplit>
void launch_attend(cudaStream_t stream, const Problem& p) {
  constexpr int kBytes = buffers_for(kWarps) * 2 * Tile<Cache, kDim>::kBytes +
                         (kSplit ? 0 : Total<kDim, kWarps * kWarp>::kBytes);
  const auto kernel = attend<Cache, kDim, kWarps, kSplit>;
  check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, kBytes),
        "attention: shared memory");
  check(cudaFuncSetAttribute(kernel, cudaFuncAttributePreferredSharedMemoryCarveout,
                             cudaSharedmemCarveoutMaxShared),
        "attention: prefer shared memory");
  const int64_t blocks =
      kWarps == 1 ? p.batch.rows : QueryTile::blocks_before(p.batch.tokens, p.batch.rows, p.group, kLongRows);
  const dim3 grid(static_cast<unsigned>(blocks), static_cast<unsigned>(p.kv_heads),
                  kSplit ? static_cast<unsigned>(p.extents) : 1);
  kernel<<<grid, kWarps * kWarp, kBytes, stream>>>(p);
  check_launch("attention");
}

/// One warp a block, or where Hopper serves four.
template <class Cache, int kDim, bool kSplit>
void launch_short(cudaStream_t stream, const Problem& p, const KvCacheView& cache, const Gpu& gpu) {
  if constexpr (std::is_same_v<Cache, NarrowCache>) {
    if (gpu.is_hopper && hopper_serves_short_rows(kDim, p.block_size)) {
      attend_short_rows_on_hopper(stream, p, kDim, cache.blocks * 2 * cache.kv_heads * cache.block_size,
                                  kSplit);
      return;
    }
  }
  launch_attend<Cache, kDim, 1, kSplit>(stream, p);
}

template <class Cache, int kDim>
void launch(cudaStream_t stream, Problem p, const KvCacheView& cache, Workspace workspace, const Gpu& gpu) {
  // Rows have a token each or more: with as many rows as tokens there is no long row, unless heads are very
  // many.
  const bool some_short = p.group <= kShortItems;
  const bool some_long = p.batch.tokens > p.batch.rows || !some_short;
  if (some_long) {
    if (gpu.is_hopper && hopper_serves(kDim))
      attend_long_rows_on_hopper(stream, p, kDim, cache.dtype);
    else
      launch_attend<Cache, kDim, kLongWarps, false>(stream, p);
  }
  if (!some_short) return;
  const int64_t parts = p.batch.tokens * p.heads * p.extents;
  const size_t needed = static_cast<size_t>(parts) * (kDim * sizeof(float) + sizeof(float2));
  constexpr int kEnoughWarps = 16;  // on a multiprocessor: more hide no more latency
  const bool split = p.extents > 1 && needed <= workspace.bytes &&
                     p.batch.rows * p.kv_heads < int64_t{kEnoughWarps} * gpu.multiprocessors;
  if (!split) {
    launch_short<Cache, kDim, false>(stream, p, cache, gpu);
    return;
  }
  p.partial_base_sum = static_cast<float2*>(workspace.data);
  p.partial_acc = reinterpret_cast<float*>(p.partial_base_sum + parts);
  launch_short<Cache, kDim, true>(stream, p, cache, gpu);
  const dim3 grid(static_cast<unsigned>(p.batch.tokens),
                  static_cast<unsigned>((p.heads + kFoldHeads - 1) / kFoldHeads));
  fold_split_rows<kDim><<<grid, kFoldHeads * kWarp, 0, stream>>>(p);
  check_launch("attention: fold");
}

template <class Cache>
void launch_for_dim(cudaStream_t stream, Problem p, const KvCacheView& cache, Workspace workspace,
                    const Gpu& gpu) {
  if constexpr (Cache::kScaled) p.scale_log2 *= Cache::Key::kKeyUnit;  // what keys' codes are multiplied as
  switch (cache.head_dim) {
    case 16:
      return launch<Cache, 16>(stream, p, cache, workspace, gpu);
    case 32:
      return launch<Cache, 32>(stream, p, cache, workspace, gpu);
    case 64:
      return launch<Cache, 64>(stream, p, cache, workspace, gpu);
    default:
      return launch<Cache, 128>(stream, p, cache, workspace, gpu);
  }
}

}  // namespace

bool tensor_cores_serve(const AttentionShape& shape, DType query, DType out, DType cache) {
  const bool known = shape.dim == 16 || shape.dim == 32 || shape.dim == 64 || shape.dim == 128;
  return known && (query == DType::f32 || query == DType::bf16) && out == DType::bf16 &&
         (cache == DType::bf16 || has_scales(cache));
}

void attention_tensor_cores(cudaStream_t stream, TensorView out_THd, TensorView q_THd,
                            const KvCacheView& cache, const BatchView& batch, const AttentionShape& shape,
                            float scale, Workspace workspace, const Gpu& gpu) {
  if (batch.tokens == 0) return;
  Problem p{};
  p.out_THd = out_THd.as<__nv_bfloat16>();
  p.q_THd = q_THd.data;
  p.q_is_f32 = q_THd.dtype == DType::f32;
  p.cache = cache.data;
  p.scales = scales_of(cache);
  p.batch = batch;
  p.heads = static_cast<int>(shape.heads);
  p.kv_heads = static_cast<int>(shape.kv_heads);
  p.group = p.heads / p.kv_heads;
  p.block_size = static_cast<int>(cache.block_size);
  p.scale_log2 = scale * kLog2E;
  p.extents = static_cast<int>((batch.max_context + kExtentKeys - 1) / kExtentKeys);
  switch (cache.dtype) {
    case DType::e4m3:
      return launch_for_dim<CodeCache<E4m3>>(stream, p, cache, workspace, gpu);
    case DType::i8:
      return launch_for_dim<CodeCache<Int8>>(stream, p, cache, workspace, gpu);
    default:
      return launch_for_dim<NarrowCache>(stream, p, cache, workspace, gpu);
  }
}

}  // namespace penstock::cuda
