// Long rows on Hopper (after FlashAttention-3, Shah et al. 2024). A block has 128 query rows: two warpgroups
// of 64 compute, four warps of a third copy tiles of K and V, two tiles of each under way. A warpgroup's
// scores of the next tile and values of the present one are multiplied while it weighs.
//
// wgmma takes K and V from shared memory in two bytes a value: codes of one byte are copied to memory of the
// warp that copies and widened there, into the pairs that attention_tile.cuh tells of.
//
// wgmma gives the bits of mma.sync when K is walked 16 at a time in the same order, so these rows have the
// bits that attention.cu gives them; tests/unit/cuda_attention_test.cpp would show it if a device did not.
//
// Floor for head size 128: a tile is 4 x 128 x 64 x 128 = 4.2 M operations, 1024 cycles of a multiprocessor's
// tensor cores; its exponentials take 512 cycles of the special-function units, its other arithmetic about as
// many issue slots, and both can hide behind the products of the other warpgroup.
#include "kernels/cuda/attention_problem.cuh"
#include "kernels/cuda/attention_softmax.cuh"
#include "kernels/cuda/hopper.cuh"

namespace penstock::cuda {
namespace {

constexpr int kGroups = 2;                        // warpgroups that compute
constexpr int kGroupRows = 64;                    // query rows of each
constexpr int kBlockRows = kGroups * kGroupRows;  // of a block
constexpr int kThreads = (kGroups + 1) * kWarpgroup;
constexpr int kStages = 4;   // tiles of K, and of V, in shared memory
constexpr int kCopiers = 2;  // warps that copy K; as many copy V
constexpr int kCopierRegisters = 40, kComputerRegisters = 232;

/// Shared memory of a block; tiles begin at multiples of 1024 bytes.
template <class Cache, int kDim>
struct Layout {
  static constexpr int kTileBytes = kTileKeys * kDim * 2;
  static constexpr int kValues = kStages * kTileBytes;  // where those of V begin
  // Of a cache of codes also the scales of the tiles, K's and then V's, and for each warp that copies two
  // tiles of codes with their scales.
  static constexpr int kScaleBytes = kTileKeys * static_cast<int>(sizeof(float));
  static constexpr int kScales = 2 * kValues;
  static constexpr int kCodes = kScales + 2 * kStages * kScaleBytes;
  static constexpr int kCodeTileBytes = kTileKeys * kDim + kScaleBytes;
  static constexpr int kBytes = Cache::kScaled ? kCodes + 2 * kCopiers * 2 * kCodeTileBytes : 2 * kValues;

  __device__ static float* scales(unsigned char* shared, bool values, int tile) {
    return reinterpret_cast<float*>(shared + kScales +
                                    ((values ? kStages : 0) + tile % kStages) * kScaleBytes);
  }
};

/// Of K or of V: full(tile) when it has been copied, empty when both warpgroups are through with it.
struct Stages {
  Barrier full[kStages];
  Barrier empty[kStages];
};

/// A row of the cache, in units of kDim values, for every key of a tile; lane l finds those of keys l and
/// l + 32. -1 past the context.
__device__ void find_keys(int (&rows)[2], const Problem& p, int sequence, int kv_head, bool values, int tile,
                          int context) {
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    const int position = tile * kTileKeys + i * kWarp + static_cast<int>(threadIdx.x) % kWarp;
    rows[i] = -1;
    if (position >= context) continue;
    const int block = p.batch.block_table_RB[sequence * p.batch.table_stride + position / p.block_size];
    rows[i] =
        ((block * 2 + (values ? 1 : 0)) * p.kv_heads + kv_head) * p.block_size + position % p.block_size;
  }
}

/// Copies a tile of K or V, one warp. With kWhole every key is there. The copies of a tile take the issue
/// slots that the products leave, so an address costs a shuffle and a multiply-add.
template <int kDim, bool kWhole>
__device__ void start_tile(unsigned to, const uint16_t* cache, const int (&rows)[2]) {
  constexpr int kChunks = kDim / 8;             // of 16 bytes a key
  constexpr int kKeysAtOnce = kWarp / kChunks;  // that the warp copies with one instruction
  constexpr int kPeriod = 8 / kKeysAtOnce;      // of the swizzle
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  const int own = lane / kChunks;
  const char* from = reinterpret_cast<const char*>(cache + lane % kChunks * 8);
  unsigned at[kPeriod];
#pragma unroll
  for (int i = 0; i < kPeriod; ++i) at[i] = to + swizzled(kTileKeys, i * kKeysAtOnce + own, lane % kChunks);
  constexpr int kBatch = 8;  // addresses found before the first is used
#pragma unroll
  for (int first = 0; first < kTileKeys / kKeysAtOnce; first += kBatch) {
    int row[kBatch];
#pragma unroll
    for (int i = 0; i < kBatch; ++i) {
      const int key = (first + i) * kKeysAtOnce;
      row[i] = __shfl_sync(kAllLanes, rows[key / kWarp], key % kWarp + own);
    }
#pragma unroll
    for (int i = 0; i < kBatch; ++i) {
      const bool zeros = !kWhole && row[i] < 0;
      start_copy(at[i % kPeriod] + static_cast<unsigned>((first + i) / kPeriod * 1024),
                 from + static_cast<int64_t>(zeros ? 0 : row[i]) * (kDim * 2), zeros);
    }
  }
  close_copies();
}

/// One warp copies every other tile of K or of V.
template <int kDim>
__device__ void copy_tiles(const Problem& p, Stages& stages, unsigned shared, int sequence, int kv_head,
                           bool values, int first_tile, int tiles, int context) {
  int rows[2];
  find_keys(rows, p, sequence, kv_head, values, first_tile, context);
  for (int tile = first_tile; tile < tiles; tile += kCopiers) {
    const int stage = tile % kStages;
    if (tile >= kStages) stages.empty[stage].wait_for(tile / kStages - 1);
    const unsigned to = shared + static_cast<unsigned>(stage * Layout<NarrowCache, kDim>::kTileBytes);
    if ((tile + 1) * kTileKeys <= context)
      start_tile<kDim, true>(to, static_cast<const uint16_t*>(p.cache), rows);
    else
      start_tile<kDim, false>(to, static_cast<const uint16_t*>(p.cache), rows);
    find_keys(rows, p, sequence, kv_head, values, tile + kCopiers, context);
    wait_for_copies<0>();
    publish_to_products();
    __syncwarp();
    if (threadIdx.x % kWarp == 0) stages.full[stage].arrive();
  }
}

/// Starts copying a tile of codes and its scales, one warp: rows of keys, one behind the other.
template <int kDim>
__device__ void start_codes(unsigned to, const Problem& p, const int (&rows)[2]) {
  constexpr int kChunks = kDim / 16;  // of 16 bytes a key
  constexpr int kKeysAtOnce = kWarp / kChunks;
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  const char* from = static_cast<const char*>(p.cache) + lane % kChunks * 16;
#pragma unroll
  for (int i = 0; i < kTileKeys / kKeysAtOnce; ++i) {
    const int key = i * kKeysAtOnce;
    const int row = __shfl_sync(kAllLanes, rows[key / kWarp], key % kWarp + lane / kChunks);
    start_copy(to + static_cast<unsigned>(i * kWarp + lane) * 16,
               from + static_cast<int64_t>(row < 0 ? 0 : row) * kDim, row < 0);
  }
#pragma unroll
  for (int i = 0; i < 2; ++i)
    start_copy_of_4(to + static_cast<unsigned>(kTileKeys * kDim + (i * kWarp + lane) * 4),
                    p.scales + (rows[i] < 0 ? 0 : rows[i]), rows[i] < 0);
  close_copies();
}

/// A tile of codes becomes an operand of products, one warp.
template <class Code, int kDim, bool kValues>
__device__ void widen_tile(unsigned char* to, float* scales_to, const unsigned char* codes) {
  constexpr int kChunks = kDim / 16;
  constexpr int kAtOnce = 2;  // loaded before the first is stored
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
#pragma unroll 1
  for (int first = lane; first < kTileKeys * kChunks; first += kAtOnce * kWarp) {
    uint4 loaded[kAtOnce];
#pragma unroll
    for (int i = 0; i < kAtOnce; ++i) loaded[i] = reinterpret_cast<const uint4*>(codes)[first + i * kWarp];
#pragma unroll
    for (int i = 0; i < kAtOnce; ++i) {
      const int chunk = first + i * kWarp;
      const uint32_t words[4] = {loaded[i].x, loaded[i].y, loaded[i].z, loaded[i].w};
      uint32_t pairs[4][2];
#pragma unroll
      for (int w = 0; w < 4; ++w) {
        if constexpr (kValues)
          Code::widen_values(pairs[w], words[w]);
        else
          Code::widen_keys(pairs[w], words[w]);
      }
#pragma unroll
      for (int j = 0; j < 2; ++j)
        *reinterpret_cast<uint4*>(to + swizzled(kTileKeys, chunk / kChunks, chunk % kChunks * 2 + j)) = {
            pairs[0][j], pairs[1][j], pairs[2][j], pairs[3][j]};
    }
  }
  const auto* scales = reinterpret_cast<const float2*>(codes + kTileKeys * kDim);
  reinterpret_cast<float2*>(scales_to)[lane] = scales[lane];
}

/// As copy_tiles, of a cache of codes: the next tile of codes is under way while one is widened.
template <class Code, int kDim, bool kValues>
__device__ void copy_codes(const Problem& p, Stages& stages, unsigned char* shared, int sequence, int kv_head,
                           int first_tile, int tiles, int context) {
  using Shape = Layout<CodeCache<Code>, kDim>;
  if (first_tile >= tiles) return;
  unsigned char* const own =
      shared + Shape::kCodes + static_cast<int>(threadIdx.x) / kWarp * 2 * Shape::kCodeTileBytes;
  const auto codes = [&](int tile) { return own + tile / kCopiers % 2 * Shape::kCodeTileBytes; };
  int rows[2];
  find_keys(rows, p, sequence, kv_head, kValues, first_tile, context);
  start_codes<kDim>(shared_address(codes(first_tile)), p, rows);
  find_keys(rows, p, sequence, kv_head, kValues, first_tile + kCopiers, context);
  for (int tile = first_tile; tile < tiles; tile += kCopiers) {
    const int stage = tile % kStages;
    if (tile + kCopiers < tiles)
      start_codes<kDim>(shared_address(codes(tile + kCopiers)), p, rows);
    else
      close_copies();
    find_keys(rows, p, sequence, kv_head, kValues, tile + 2 * kCopiers, context);
    wait_for_copies<1>();
    __syncwarp();
    if (tile >= kStages) stages.empty[stage].wait_for(tile / kStages - 1);
    widen_tile<Code, kDim, kValues>(shared + (kValues ? Shape::kValues : 0) + stage * Shape::kTileBytes,
                                    Shape::scales(shared, kValues, tile), codes(tile));
    publish_to_products();
    __syncwarp();
    if (threadIdx.x % kWarp == 0) stages.full[stage].arrive();
  }
}

/// s = q k^T of one tile; the caller closes and waits.
template <int kDim>
__device__ void start_scores(float (&s)[kTileKeys / 8][4], const uint32_t (&q)[kDim / 16][4], unsigned k) {
#pragma unroll
  for (int i = 0; i < kDim / 16; ++i) {
    const int at = i * 16 / kPanelColumns * kTileKeys * 128 + i * 16 % kPanelColumns * 2;
    multiply_f16(s, q[i], describe(k + static_cast<unsigned>(at), 16), i > 0);
  }
}

/// acc = or += weights v of one tile.
template <int kDim>
__device__ void start_values(float (&acc)[kDim / 8][4], const uint32_t (&weights)[kTileKeys / 16][4],
                             unsigned v, bool add) {
#pragma unroll
  for (int i = 0; i < kTileKeys / 16; ++i)
    multiply_bf16(acc, weights[i], describe(v + i * 16 * 128, kTileKeys * 128), add || i > 0);
}

template <class Cache, int kDim>
__device__ void compute(const Problem& p, Stages& keys, Stages& values, unsigned char* shared_bytes,
                        const QueryTile& queries, int last_item, int kv_head, int tiles) {
  using Shape = Layout<Cache, kDim>;
  const unsigned shared = shared_address(shared_bytes);
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  const int warp = static_cast<int>(threadIdx.x) / kWarp - kWarpgroup / kWarp;

  // This lane's two query rows; rows past the end repeat the last one, see nothing and are not written.
  int seen[2];
  bool real[2];
  int64_t first[2];
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    const int item = queries.first_item + warp * 16 + lane / 4 + 8 * r;
    real[r] = item <= last_item;
    const int token = queries.token_of(p, min(item, last_item));
    first[r] =
        (static_cast<int64_t>(token) * p.heads + kv_head * p.group + min(item, last_item) % p.group) * kDim;
    seen[r] = real[r] ? p.batch.positions_T[token] + 1 : 0;
  }
  uint32_t q[kDim / 16][4];
  load_queries<Cache, kDim>(q, p, first, lane);
  const auto key_tile = [&](int tile) {
    return shared + static_cast<unsigned>(tile % kStages * Shape::kTileBytes);
  };
  const auto value_tile = [&](int tile) {
    return shared + static_cast<unsigned>(Shape::kValues + tile % kStages * Shape::kTileBytes);
  };
  const auto release = [&](Stages& stages, int tile) {
    if (lane == 0) stages.empty[tile % kStages].arrive();
  };

  float s[kTileKeys / 8][4], acc[kDim / 8][4], shrink[2];
  uint32_t weights[kTileKeys / 16][4];
  WholeRows<kDim> total;
  Softmax softmax;
#pragma unroll
  for (int n = 0; n < kDim / 8; ++n)
    for (int j = 0; j < 4; ++j) acc[n][j] = 0;

  const auto scale_scores = [&](int tile) {
    if constexpr (Cache::kScaled) multiply_columns(s, Shape::scales(shared_bytes, false, tile), 1, lane);
  };
  const auto weigh = [&](int tile) {
    const int visible[2] = {seen[0] - tile * kTileKeys, seen[1] - tile * kTileKeys};
    return softmax.weigh(s, visible, p.scale_log2, lane, shrink);
  };
  const auto pack_all = [&]([[maybe_unused]] int tile) {
    if constexpr (Cache::kScaled) {
      values.full[tile % kStages].wait_for(tile / kStages);
      multiply_columns(s, Shape::scales(shared_bytes, true, tile), Cache::Value::kValueUnit, lane);
    }
#pragma unroll
    for (int k = 0; k < kTileKeys / 16; ++k) pack_weights(weights[k], s, k);
  };

  softmax.clear();
  keys.full[0].wait_for(0);
  begin_products();
  start_scores<kDim>(s, q, key_tile(0));
  close_products();
  wait_for_products<0>(s);
  scale_scores(0);
  release(keys, 0);
  weigh(0);
  pack_all(0);
  for (int tile = 0; tile < tiles - 1; ++tile) {
    const int next = tile + 1;
    keys.full[next % kStages].wait_for(next / kStages);
    begin_products();
    start_scores<kDim>(s, q, key_tile(next));
    close_products();
    values.full[tile % kStages].wait_for(tile / kStages);
    start_values<kDim>(acc, weights, value_tile(tile), tile % kTilesPerExtent != 0);
    close_products();
    wait_for_products<1>(s);
    scale_scores(next);
    release(keys, next);

    const bool opens = next % kTilesPerExtent == 0;  // another extent
    const Softmax before = softmax;
    if (opens) softmax.clear();
    const bool moved = weigh(next);
    // One wait in each branch: a single one would be moved up, before the weighing that is to hide it.
    if (opens) {
      wait_for_products<0, 1>(acc);
      total.add(before, acc, p.scale_log2);
    } else if (moved) {
      wait_for_products<0, 2>(acc);
      multiply_rows<kDim>(acc, shrink);
    } else {
      wait_for_products<0, 3>(acc);
    }
    release(values, tile);
    pack_all(next);
  }
  const int last = tiles - 1;
  values.full[last % kStages].wait_for(last / kStages);
  begin_products();
  start_values<kDim>(acc, weights, value_tile(last), last % kTilesPerExtent != 0);
  close_products();
  wait_for_products<0>(acc);
  total.add(softmax, acc, p.scale_log2);

#pragma unroll
  for (int r = 0; r < 2; ++r) {
    if (!real[r]) continue;
    const float inverse = 1.0F / total.sum[r];
    write_columns<Cache, kDim>(
        reinterpret_cast<__nv_bfloat162*>(p.out_THd + first[r]),
        [&](int n, int j) { return total.acc[n][2 * r + j] * inverse; }, __floats2bfloat162_rn, lane);
  }
}

/// Grid (tiles, G). Warpgroup 0 copies, 1 and 2 compute.
template <class Cache, int kDim>
__global__ void __launch_bounds__(kThreads, 1) attend_long_rows(const __grid_constant__ Problem p) {
  extern __shared__ __align__(1024) unsigned char shared[];
  __shared__ Stages keys, values;
  const QueryTile queries = QueryTile::of_long_rows(p, static_cast<int>(blockIdx.x), kBlockRows);
  if (!queries.mine) return;
  if (threadIdx.x == 0) {
    for (int i = 0; i < kStages; ++i) {
      for (Stages* stages : {&keys, &values}) {
        stages->full[i].start(1);
        stages->empty[i].start(kGroups * kWarpgroup / kWarp);
      }
    }
    publish_barriers();
  }
  __syncthreads();
  const int kv_head = static_cast<int>(blockIdx.y);
  const int last_item = min(queries.items(p), queries.first_item + kBlockRows) - 1;
  const int seen = p.batch.positions_T[queries.token_of(p, last_item)] + 1;  // by any of these queries
  const int tiles = (seen + kTileKeys - 1) / kTileKeys;
  if (threadIdx.x < kWarpgroup) {
    give_up_registers<kCopierRegisters>();
    const int warp = static_cast<int>(threadIdx.x) / kWarp;
    const bool copies_values = warp >= kCopiers;
    const int context = p.batch.context_R[queries.row];
    if constexpr (!Cache::kScaled)
      copy_tiles<kDim>(p, copies_values ? values : keys,
                       shared_address(shared) + (copies_values ? Layout<Cache, kDim>::kValues : 0),
                       queries.row, kv_head, copies_values, warp % kCopiers, tiles, context);
    else if (copies_values)
      copy_codes<typename Cache::Key, kDim, true>(p, values, shared, queries.row, kv_head, warp % kCopiers,
                                                  tiles, context);
    else
      copy_codes<typename Cache::Key, kDim, false>(p, keys, shared, queries.row, kv_head, warp % kCopiers,
                                                   tiles, context);
  } else {
    take_registers<kComputerRegisters>();
    compute<Cache, kDim>(p, keys, values, shared, queries, last_item, kv_head, tiles);
  }
}

template <class Cache, int kDim>
void launch(cudaStream_t stream, const Problem& p) {
  constexpr int kBytes = Layout<Cache, kDim>::kBytes;
  const auto kernel = attend_long_rows<Cache, kDim>;
  check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, kBytes),
        "attention: shared memory");
  const int64_t blocks = QueryTile::blocks_before(p.batch.tokens, p.batch.rows, p.group, kBlockRows);
  kernel<<<dim3(static_cast<unsigned>(blocks), static_cast<unsigned>(p.kv_heads)), kThreads, kBytes,
           stream>>>(p);
  check_launch("attention of long rows");
}

}  // namespace

bool hopper_serves(int dim) {
  return dim == 64 || dim == 128;
}

void attend_long_rows_on_hopper(cudaStream_t stream, const Problem& p, int dim, DType cache) {
  with_cache_type(cache, [&](auto c) {
    using Cache = decltype(c);
    if constexpr (!std::is_same_v<Cache, WideCache>)
      dim == 64 ? launch<Cache, 64>(stream, p) : launch<Cache, 128>(stream, p);
  });
}

}  // namespace penstock::cuda
