// Latent attention of long rows: prefill, chunks, and the decode of models with many heads. A block has 64
// query rows. Its two computing warpgroups gather half of the 512 columns each; both find all scores, because
// half the scores each would have to be exchanged for little: products with 32 keys are no faster than the
// queries can be read from shared memory.
//
// An extent's sums fill the registers, so those of the extents before it lie in global memory, a piece for
// each block, small enough for the L2 cache to keep: 256 KB a block come and go for every 590 KB of tiles.
//
// Floor: a tile is 64 x 64 x (2 x 576 + 512) x 2 = 13.6 M operations of the tensor cores (8.9 M of use), 3300
// cycles of a multiprocessor. It takes not quite twice that: there is room for two tiles only, so the two
// warpgroups keep step and weigh at the same time, and folding hides behind nothing.
#include "kernels/cuda/latent_sums.cuh"
#include "kernels/cuda/latent_tiles.cuh"

namespace penstock::cuda {
namespace {

constexpr int kGroups = 2;  // warpgroups that compute
constexpr int kComputers = kGroups * kWarpgroup;
constexpr int kThreads = kCopierThreads + kComputers;
constexpr int kGroupColumns = kLatentDim / kGroups;
constexpr int kHalf = 128;  // columns of one product
constexpr int kHalves = kGroupColumns / kHalf;
constexpr int kCopierRegisters = 72, kComputerRegisters = 216;

/// Shared memory of a block; multiples of 1024 bytes.
constexpr int kQueriesAt = kLatentStages * kLatentTileBytes;
constexpr int kSharedBytes = kQueriesAt + kLongLatentRows * kLatentKey * 2;

using Sums = float[kHalves][kHalf / 8][4];

/// s = q k^T of one tile; the caller closes and waits.
__device__ void start_scores(float (&s)[kTileKeys / 8][4], unsigned queries, unsigned tile) {
  static_assert(kLongLatentRows == kTileKeys);  // so that both operands have the same panels
#pragma unroll
  for (int k = 0; k < kLatentKey / 16; ++k) {
    const auto at =
        static_cast<unsigned>(k * 16 / kPanelColumns * kTileKeys * 128 + k * 16 % kPanelColumns * 2);
    multiply_f16(s, describe(queries + at, 16), describe(tile + at, 16), k > 0);
  }
}

/// acc = or += weights v, for the columns that begin in shared memory at `columns`.
__device__ void start_values(Sums& acc, const uint32_t (&weights)[kTileKeys / 16][4], unsigned columns,
                             bool add) {
#pragma unroll
  for (int k = 0; k < kTileKeys / 16; ++k)
#pragma unroll
    for (int half = 0; half < kHalves; ++half) {
      const int at = half * (kHalf / kPanelColumns) * kTileKeys * 128 + k * 16 * 128;
      multiply_f16(acc[half], weights[k], describe(columns + static_cast<unsigned>(at), kTileKeys * 128),
                   add || k > 0);
    }
}

template <int kOpen>
__device__ void wait_for_sums(Sums& acc) {
#pragma unroll
  for (int half = 0; half < kHalves; ++half) wait_for_products<kOpen>(acc[half]);
}

/// What a block keeps of the extents before this one: element n of thread t at n x threads + t.
__device__ void fold_extent(Sums& acc, float4* totals, LatentTotal& total, const Softmax& extent, bool first,
                            bool last, float scale_log2) {
  const Fold folds[2] = {total.add(extent, 0, scale_log2), total.add(extent, 1, scale_log2)};
  constexpr int kBatch = 16;  // loads under way
#pragma unroll
  for (int half = 0; half < kHalves; ++half)
#pragma unroll
    for (int from = 0; from < kHalf / 8; from += kBatch) {
      float4* const at = totals + (half * (kHalf / 8) + from) * kComputers;
      float4 before[kBatch];
#pragma unroll
      for (int n = 0; n < kBatch; ++n) before[n] = first ? float4{0, 0, 0, 0} : __ldcg(at + n * kComputers);
#pragma unroll
      for (int n = 0; n < kBatch; ++n) {
        float(&sums)[4] = acc[half][from + n];
        sums[0] = folds[0](before[n].x, sums[0]);
        sums[1] = folds[0](before[n].y, sums[1]);
        sums[2] = folds[1](before[n].z, sums[2]);
        sums[3] = folds[1](before[n].w, sums[3]);
        if (!last) __stcg(at + n * kComputers, float4{sums[0], sums[1], sums[2], sums[3]});
      }
    }
}

__device__ void compute(const LatentProblem& p, Turns& stages, unsigned tiles) {
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  const int thread = static_cast<int>(threadIdx.x) - kCopierThreads;
  const int group = thread / kWarpgroup;
  const int own_row = thread % kWarpgroup / kWarp * 16 + lane / 4;
  float4* const totals =
      p.totals + static_cast<int64_t>(blockIdx.x) * static_cast<int64_t>(kTotalBytes / sizeof(float4)) +
      thread;
  const auto own_columns = static_cast<unsigned>(group * (kGroupColumns / kPanelColumns) * kTileKeys * 128);
  int turn = 0;
  for_each_unit<kLongLatentRows>(p, [&](const LatentUnit& unit) {
    meet<kComputers>();  // nobody reads the queries of the unit before
    load_latent_queries<kLongLatentRows, kComputers>(tiles + kQueriesAt, p, unit, thread);
    publish_to_products();
    meet<kComputers>();
    int seen[2];
#pragma unroll
    for (int r = 0; r < 2; ++r) seen[r] = unit.seen(p, unit.queries.first_item + own_row + 8 * r);

    Sums acc{};
    float s[kTileKeys / 8][4], shrink[2];
    uint32_t weights[kTileKeys / 16][4];
    LatentTotal total;
    Softmax softmax;
    const auto tile_at = [&](int t) {
      return tiles + static_cast<unsigned>(t % kLatentStages * kLatentTileBytes);
    };
    const auto begin_scores = [&] {
      stages.wait_until_full(turn);
      begin_products();
      start_scores(s, tiles + kQueriesAt, tile_at(turn));
      close_products();
    };
    const auto weigh = [&](int tile) {
      const int visible[2] = {seen[0] - tile * kTileKeys, seen[1] - tile * kTileKeys};
      return softmax.weigh<HalfWeights>(s, visible, p.scale_log2, lane, shrink);
    };
    const auto begin_values = [&](bool add) {
#pragma unroll
      for (int k = 0; k < kTileKeys / 16; ++k) pack_weights<HalfWeights>(weights[k], s, k);
      begin_products();
      start_values(acc, weights, tile_at(turn) + own_columns, add);
      close_products();
    };
    for (int first = unit.first_tile; first < unit.end_tile; first += kLatentTilesPerExtent) {
      const int end = min(first + kLatentTilesPerExtent, unit.end_tile);
      softmax.clear();
      begin_scores();
      wait_for_products<0>(s);
      weigh(first);
      for (int tile = first; tile < end - 1; ++tile) {
        begin_values(tile > first);
        ++turn;
        begin_scores();
        wait_for_sums<1>(acc);
        stages.release(turn - 1);
        wait_for_products<0>(s);
        if (weigh(tile + 1)) {
#pragma unroll
          for (int half = 0; half < kHalves; ++half) multiply_rows<kHalf>(acc[half], shrink);
        }
      }
      begin_values(end - 1 > first);
      wait_for_sums<0>(acc);
      stages.release(turn++);
      softmax.close();
      if (!p.split) fold_extent(acc, totals, total, softmax, first == 0, end == unit.end_tile, p.scale_log2);
    }
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      const int row = own_row + 8 * r;
      const int item = unit.queries.first_item + row;
      const bool real = item <= unit.last_item;
#pragma unroll
      for (int half = 0; half < kHalves; ++half) {
        const int column = group * kGroupColumns + half * kHalf;
        if (!p.split)
          write_latent_row(p.out_THd + unit.row_of(p, item) * kLatentDim + column, real, acc[half],
                           total.sum[r], r, lane);
        else if (real)
          write_latent_part(p, latent_part<kLongLatentRows>(p, unit.block, row, unit.extent), column, softmax,
                            acc[half], r, lane);
      }
    }
  });
}

/// Warpgroup 0 copies, 1 and 2 compute.
template <class Format>
__global__ void __launch_bounds__(kThreads, 1) attend_long(const __grid_constant__ LatentProblem p) {
  extern __shared__ __align__(1024) unsigned char shared[];
  __shared__ Turns stages;
  if (threadIdx.x == 0) stages.start(kCopierThreads, kComputers / kWarp);
  __syncthreads();
  if (threadIdx.x < kCopierThreads) {
    give_up_registers<kCopierRegisters>();
    LatentCopier<kLongLatentRows, true>(p, stages, shared_address(shared)).template copy_all<Format>();
  } else {
    take_registers<kComputerRegisters>();
    compute(p, stages, shared_address(shared));
  }
}

}  // namespace

void attend_long_latent_rows(cudaStream_t stream, const LatentProblem& p, DType cache, int grid) {
  const auto launch = [&](auto kernel) {
    check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, kSharedBytes),
          "latent attention: shared memory");
    kernel<<<static_cast<unsigned>(grid), kThreads, kSharedBytes, stream>>>(p);
    check_launch("latent attention of long rows");
  };
  if (cache == DType::e4m3)
    launch(attend_long<E4m3Latents>);
  else if (cache == DType::i8)
    launch(attend_long<Int8Latents>);
  else
    launch(attend_long<HalfLatents>);
}

}  // namespace penstock::cuda
