// Latent attention of short rows: up to 16 query rows, as the decode of a model with 16 heads has them. The
// cache is read once, and that is what takes the time: a tile's 74 KB are more than 5000 cycles of a
// multiprocessor's share of the memory, its products 2500.
//
// Four warps compute. Each multiplies 16 of a tile's keys with the queries; the scores go through shared
// memory, every warp weighs all of them, which is cheaper than to exchange the weights as well, and gathers
// 128 of the 512 columns.
#include "kernels/cuda/attention_tile.cuh"
#include "kernels/cuda/latent_sums.cuh"
#include "kernels/cuda/latent_tiles.cuh"

namespace penstock::cuda {
namespace {

constexpr int kWarps = 4;  // that compute
constexpr int kComputers = kWarps * kWarp;
constexpr int kThreads = kCopierThreads + kComputers;
constexpr int kWarpKeys = kTileKeys / kWarps;
constexpr int kWarpColumns = kLatentDim / kWarps;
constexpr int kScoreStride = kTileKeys + 8;  // in floats: rows 8 banks apart

/// Shared memory of a block.
constexpr int kQueriesAt = kLatentStages * kLatentTileBytes;
constexpr int kScoresAt = kQueriesAt + kWarpRows * kLatentKey * 2;
constexpr int kScoreBytes = kWarpRows * kScoreStride * static_cast<int>(sizeof(float));
constexpr int kSharedBytes = kScoresAt + 2 * kScoreBytes;  // of a tile and of the one before it

__device__ void load_matrices_at(uint32_t (&b)[4], unsigned address) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(b[0]), "=r"(b[1]), "=r"(b[2]), "=r"(b[3])
               : "r"(address));
}
__device__ void load_matrices_transposed_at(uint32_t (&b)[4], unsigned address) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(b[0]), "=r"(b[1]), "=r"(b[2]), "=r"(b[3])
               : "r"(address));
}

/// s = q k^T for this warp's keys. Rows of both operands lie 128 bytes apart in each panel.
__device__ void score_keys(float (&s)[kWarpKeys / 8][4], unsigned queries, unsigned tile, int warp,
                           int lane) {
#pragma unroll
  for (int n = 0; n < kWarpKeys / 8; ++n)
    for (int j = 0; j < 4; ++j) s[n][j] = 0;
  const unsigned query_row = queries + static_cast<unsigned>(lane % 16 * 128);
  const unsigned key_row = tile + static_cast<unsigned>((warp * kWarpKeys + lane / 16 * 8 + lane % 8) * 128);
  constexpr int kSteps = kPanelColumns / 16;  // of a panel
#pragma unroll
  for (int k = 0; k < kLatentKey / 16; ++k) {
    const int panel = k / kSteps;
    const auto chunk = [&](int half) {
      return static_cast<unsigned>(((k % kSteps * 2 + half) ^ (lane % 8)) * 16);
    };
    uint32_t a[4], b[4];
    load_matrices_at(a, query_row + static_cast<unsigned>(panel * kWarpRows * 128) + chunk(lane / 16));
    load_matrices_at(b, key_row + static_cast<unsigned>(panel * kTileKeys * 128) + chunk(lane / 8 % 2));
    multiply_add_f16(s[0], a, b[0], b[1]);
    multiply_add_f16(s[1], a, b[2], b[3]);
  }
}

/// acc += weights v for this warp's columns.
__device__ void add_latents(float (&acc)[kWarpColumns / 8][4], const float (&s)[kTileKeys / 8][4],
                            unsigned tile, int warp, int lane) {
  const unsigned key_row = tile + static_cast<unsigned>((lane / 8 % 2 * 8 + lane % 8) * 128);
#pragma unroll
  for (int k = 0; k < kTileKeys / 16; ++k) {
    uint32_t weights[4];
    pack_weights<HalfWeights>(weights, s, k);
#pragma unroll
    for (int n = 0; n < kWarpColumns / 16; ++n) {
      const int panel = warp * (kWarpColumns / kPanelColumns) + n / 4;
      const auto chunk = static_cast<unsigned>(((n % 4 * 2 + lane / 16) ^ (lane % 8)) * 16);
      uint32_t b[4];
      load_matrices_transposed_at(
          b, key_row + static_cast<unsigned>((panel * kTileKeys + k * 16) * 128) + chunk);
      multiply_add_f16(acc[2 * n], weights, b[0], b[1]);
      multiply_add_f16(acc[2 * n + 1], weights, b[2], b[3]);
    }
  }
}

/// This warp's scores go to shared memory, all warps' come back.
__device__ void exchange_scores(float (&all)[kTileKeys / 8][4], const float (&own)[kWarpKeys / 8][4],
                                float* scores, int warp, int lane) {
  float* const row = scores + lane / 4 * kScoreStride + lane % 4 * 2;
#pragma unroll
  for (int r = 0; r < 2; ++r)
#pragma unroll
    for (int n = 0; n < kWarpKeys / 8; ++n)
      *reinterpret_cast<float2*>(row + r * 8 * kScoreStride + warp * kWarpKeys + n * 8) = {own[n][2 * r],
                                                                                           own[n][2 * r + 1]};
  meet<kComputers>();
#pragma unroll
  for (int r = 0; r < 2; ++r)
#pragma unroll
    for (int n = 0; n < kTileKeys / 8; ++n) {
      const float2 pair = *reinterpret_cast<const float2*>(row + r * 8 * kScoreStride + n * 8);
      all[n][2 * r] = pair.x;
      all[n][2 * r + 1] = pair.y;
    }
}

__device__ void compute(const LatentProblem& p, LatentStages& stages, unsigned char* shared) {
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  const int thread = static_cast<int>(threadIdx.x) - kCopierThreads;
  const int warp = thread / kWarp;
  const unsigned tiles = shared_address(shared);
  int turn = 0;
  for_each_unit<kShortItems>(p, [&](const LatentUnit& unit) {
    // Nobody reads the queries of the unit before: its last scores have been exchanged.
    load_latent_queries<kWarpRows, kComputers>(tiles + kQueriesAt, p, unit, thread);
    meet<kComputers>();
    int seen[2];
    for (int r = 0; r < 2; ++r) seen[r] = unit.seen(p, lane / 4 + 8 * r);
    float acc[kWarpColumns / 8][4] = {}, whole[kWarpColumns / 8][4] = {};
    LatentTotal total;
    Softmax softmax;
    softmax.clear();
    for (int tile = unit.first_tile; tile < unit.end_tile; ++tile, ++turn) {
      const unsigned at = tiles + static_cast<unsigned>(turn % kLatentStages * kLatentTileBytes);
      float own[kWarpKeys / 8][4], s[kTileKeys / 8][4], shrink[2];
      stages.wait_for_tile(turn);
      score_keys(own, tiles + kQueriesAt, at, warp, lane);
      exchange_scores(s, own, reinterpret_cast<float*>(shared + kScoresAt + turn % 2 * kScoreBytes), warp,
                      lane);
      const int visible[2] = {seen[0] - tile * kTileKeys, seen[1] - tile * kTileKeys};
      if (softmax.weigh<HalfWeights>(s, visible, p.scale_log2, lane, shrink))
        multiply_rows<kWarpColumns>(acc, shrink);
      add_latents(acc, s, at, warp, lane);
      stages.release(turn);

      const bool ends = tile + 1 == unit.end_tile;
      if (!ends && (tile + 1) % kLatentTilesPerExtent != 0) continue;
      softmax.close();
      if (p.split) continue;  // the unit is this extent
      const Fold folds[2] = {total.add(softmax, 0, p.scale_log2), total.add(softmax, 1, p.scale_log2)};
#pragma unroll
      for (int n = 0; n < kWarpColumns / 8; ++n)
#pragma unroll
        for (int j = 0; j < 4; ++j) {
          whole[n][j] = folds[j / 2](whole[n][j], acc[n][j]);
          acc[n][j] = 0;
        }
      softmax.clear();
    }
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      const int item = lane / 4 + 8 * r;
      const bool real = item <= unit.last_item;
      if (!p.split)
        write_latent_row(p.out_THd + unit.row_of(p, item) * kLatentDim + warp * kWarpColumns, real, whole,
                         total.sum[r], r, lane);
      else if (real)
        write_latent_part(p, latent_part<kShortItems>(p, unit.block, item, unit.extent), warp * kWarpColumns,
                          softmax, acc, r, lane);
    }
  });
}

/// Warps 0 to 3 copy, 4 to 7 compute.
template <class Format>
__global__ void __launch_bounds__(kThreads, 1) attend_short(const __grid_constant__ LatentProblem p) {
  extern __shared__ __align__(1024) unsigned char shared[];
  __shared__ LatentStages stages;
  if (threadIdx.x == 0) stages.start(kWarps);
  __syncthreads();
  if (threadIdx.x < kCopierThreads)
    LatentCopier<kShortItems, false>(p, stages, shared_address(shared)).template copy_all<Format>();
  else
    compute(p, stages, shared);
}

}  // namespace

void attend_short_latent_rows(cudaStream_t stream, const LatentProblem& p, DType cache, int grid) {
  const auto launch = [&](auto kernel) {
    check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, kSharedBytes),
          "latent attention: shared memory");
    kernel<<<static_cast<unsigned>(grid), kThreads, kSharedBytes, stream>>>(p);
    check_launch("latent attention of short rows");
  };
  if (cache == DType::e4m3)
    launch(attend_short<E4m3Latents>);
  else if (cache == DType::i8)
    launch(attend_short<Int8Latents>);
  else
    launch(attend_short<HalfLatents>);
}

}  // namespace penstock::cuda
