// Tensor-core attention. A row's queries, packed with the heads that share a KV head, are cut into tiles of
// query rows; keys are walked in tiles of 64, four tiles make an extent of 256 keys. An extent starts from
// nothing and is folded into the extents before it, in order. Three launches share that arithmetic:
//   - long rows (prefill): four warps a block, 64 query rows, all extents in order;
//   - short rows (decode, at most 16 query rows), one warp a block, all extents in order;
//   - short rows again when there are too few of them to fill the device: one warp for each extent, then a
//   second
//     kernel folds the extents in order.
#include <type_traits>

#include "kernels/cuda/attention_problem.cuh"
#include "kernels/cuda/attention_tile.cuh"
#include "kernels/cuda/kv_layout.h"

namespace penstock::cuda {
namespace {

constexpr int kLongWarps = 4;
constexpr int kLongRows = kLongWarps * kWarpRows;  // query rows of a block
constexpr float kLog2E = 1.4426950408889634F;

/// Starts copying one tile of K or V into shared memory; positions from `context` on become zeros.
template <class Cache, int kDim, int kThreads>
__device__ void start_tile(unsigned char* tile, const Problem& p, const int64_t (&offsets)[kTileKeys],
                           int64_t value_offset) {
  using Shape = Tile<Cache, kDim>;
  constexpr int kChunks = kDim / Shape::kPerChunk;
  constexpr int kCopies = kTileKeys * kChunks;
  auto* const shared = reinterpret_cast<typename Shape::Element*>(tile);
  const auto* const cache = static_cast<const typename Shape::Element*>(p.cache);
#pragma unroll 4
  for (int i = 0; i < (kCopies + kThreads - 1) / kThreads; ++i) {
    const int chunk = i * kThreads + static_cast<int>(threadIdx.x);
    if (kCopies % kThreads != 0 && chunk >= kCopies) break;
    const int key = chunk / kChunks;
    const int64_t offset = offsets[key];
    const auto* from = cache + (offset < 0 ? 0 : offset + value_offset + chunk % kChunks * Shape::kPerChunk);
    start_copy(shared + key * Shape::kStride + chunk % kChunks * Shape::kPerChunk, from, offset < 0);
  }
  if constexpr (Cache::kScaled) {
    const unsigned scales = shared_address(tile + Shape::kElements);
#pragma unroll
    for (int key = static_cast<int>(threadIdx.x); key < kTileKeys; key += kThreads) {
      const int64_t offset = offsets[key];
      const float* from = p.scales + (offset < 0 ? 0 : (offset + value_offset) / kDim);
      start_copy_of_4(scales + static_cast<unsigned>(key) * 4, from, offset < 0);
    }
  }
  close_copies();
}

/// Where the keys of a tile lie in the cache; -1 past the context.
template <int kDim, int kThreads>
__device__ void find_tile(int64_t (&offsets)[kTileKeys], const Problem& p, int row, int kv_head, int tile,
                          int context) {
  for (int i = static_cast<int>(threadIdx.x); i < kTileKeys; i += kThreads) {
    const int position = tile * kTileKeys + i;
    int64_t offset = -1;
    if (position < context) {
      const int64_t block = p.batch.block_table_RB[row * p.batch.table_stride + position / p.block_size];
      offset = ((block * 2 * p.kv_heads + kv_head) * p.block_size + position % p.block_size) * kDim;
    }
    offsets[i] = offset;
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

/// Grid (tiles, G) for long rows, (R, G) for short ones, (R, G, extents) with kSplit.
template <class Cache, int kDim, int kWarps, bool kSplit>
__global__ void __launch_bounds__(kWarps* kWarp, kWarps == kLongWarps ? 2 : 1)
    attend(const __grid_constant__ Problem p) {
  constexpr int kThreads = kWarps * kWarp;
  constexpr int kBuffers = buffers_for(kWarps);
  constexpr int kTile = Tile<Cache, kDim>::kBytes;
  extern __shared__ __align__(128) unsigned char tiles[];  // K and V of a tile, kBuffers times
  __shared__ int64_t offsets[3][kTileKeys];                // of the tile in use and of the two that follow

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

  const int64_t value_offset = static_cast<int64_t>(p.kv_heads) * p.block_size * kDim;
  const auto find =
      [&](int tile) {  // past the last tile nothing is copied, but zeros are written all the same
        find_tile<kDim, kThreads>(offsets[tile % 3], p, queries.row, kv_head, tile,
                                  tile < end_tile ? context : 0);
      };
  find(first_tile);
  find(first_tile + 1);
  __syncthreads();
  unsigned char* const k_first = tiles + first_tile % kBuffers * 2 * kTile;
  start_tile<Cache, kDim, kThreads>(k_first, p, offsets[first_tile % 3], 0);
  start_tile<Cache, kDim, kThreads>(k_first + kTile, p, offsets[first_tile % 3], value_offset);

  // A split row's only extent needs no total.
  std::conditional_t<kSplit, Unused, Total<kDim, kThreads>> total(
      reinterpret_cast<float*>(tiles + kBuffers * 2 * kTile));
  Partial<kDim> part;
  part.clear();
  for (int tile = first_tile; tile < end_tile; ++tile) {
    const int64_t(&next)[kTileKeys] = offsets[(tile + 1) % 3];
    const unsigned char* k_shared = tiles + tile % kBuffers * 2 * kTile;
    const unsigned char* v_shared = k_shared + kTile;
    unsigned char* const k_next = tiles + (tile + 1) % kBuffers * 2 * kTile;
    const int visible[2] = {seen[0] - tile * kTileKeys, seen[1] - tile * kTileKeys};
    float s[kTileKeys / 8][4], shrink[2];
    if constexpr (kBuffers == 2) {
      wait_for_copies<0>();
      __syncthreads();  // the tile is there, and nobody reads the one before it any more
      start_tile<Cache, kDim, kThreads>(k_next, p, next, 0);
      start_tile<Cache, kDim, kThreads>(k_next + kTile, p, next, value_offset);
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
      start_tile<Cache, kDim, kThreads>(k_next + kTile, p, next, value_offset);
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

/// The extents of split rows, in order: the same arithmetic as Total::add, one output element a thread.
template <int kDim>
__global__ void fold_split_rows(const __grid_constant__ Problem p) {
  const QueryTile queries = QueryTile::of_short_row(p, p.batch.row_of_T[blockIdx.x]);
  if (!queries.mine) return;
  const int token = static_cast<int>(blockIdx.x);
  const int head = static_cast<int>(blockIdx.y);
  const int keys = p.batch.positions_T[token] + 1;
  const int i = static_cast<int>(threadIdx.x);
  const int64_t first = (static_cast<int64_t>(token) * p.heads + head) * p.extents;
  float base = kNothing, sum = 0, acc = 0;
  for (int extent = 0; extent * kExtentKeys < keys; ++extent) {
    const float2 base_sum = p.partial_base_sum[first + extent];
    if (base_sum.x == kNothing) continue;
    const Fold fold(base, base_sum.x, p.scale_log2);
    base = fold.base;
    sum = fold(sum, base_sum.y);
    acc = fold(acc, p.partial_acc[(first + extent) * kDim + i]);
  }
  const float inverse = 1.0F / sum;
  p.out_THd[(static_cast<int64_t>(token) * p.heads + head) * kDim + i] = __float2bfloat16_rn(acc * inverse);
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

template <class Cache, int kDim>
void launch(cudaStream_t stream, Problem p, DType cache, Workspace workspace, const Gpu& gpu) {
  // Rows have a token each or more: with as many rows as tokens there is no long row, unless heads are very
  // many.
  const bool some_short = p.group <= kShortItems;
  const bool some_long = p.batch.tokens > p.batch.rows || !some_short;
  if (some_long) {
    if (gpu.is_hopper && hopper_serves(kDim))
      attend_long_rows_on_hopper(stream, p, kDim, cache);
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
    launch_attend<Cache, kDim, 1, false>(stream, p);
    return;
  }
  p.partial_base_sum = static_cast<float2*>(workspace.data);
  p.partial_acc = reinterpret_cast<float*>(p.partial_base_sum + parts);
  launch_attend<Cache, kDim, 1, true>(stream, p);
  fold_split_rows<kDim>
      <<<dim3(static_cast<unsigned>(p.batch.tokens), static_cast<unsigned>(p.heads)), kDim, 0, stream>>>(p);
  check_launch("attention: fold");
}

template <class Cache>
void launch(cudaStream_t stream, Problem p, const KvCacheView& cache, Workspace workspace, const Gpu& gpu) {
  if constexpr (Cache::kScaled) p.scale_log2 *= Cache::Key::kKeyUnit;  // what keys' codes are multiplied as
  switch (cache.head_dim) {
    case 16:
      return launch<Cache, 16>(stream, p, cache.dtype, workspace, gpu);
    case 32:
      return launch<Cache, 32>(stream, p, cache.dtype, workspace, gpu);
    case 64:
      return launch<Cache, 64>(stream, p, cache.dtype, workspace, gpu);
    default:
      return launch<Cache, 128>(stream, p, cache.dtype, workspace, gpu);
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
      return launch<CodeCache<E4m3>>(stream, p, cache, workspace, gpu);
    case DType::i8:
      return launch<CodeCache<Int8>>(stream, p, cache, workspace, gpu);
    default:
      return launch<NarrowCache>(stream, p, cache, workspace, gpu);
  }
}

}  // namespace penstock::cuda
