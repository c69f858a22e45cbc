// Latent attention of short rows: up to 16 query rows, as the decode of a model with 16 heads has them. The
// cache is read once, and that is what takes the time: a tile's 74 KB are more than 5000 cycles of a
// multiprocessor's share of the memory. One step of the work on a tile is much shorter, but each is a chain
// of instructions that wait for one another; so a warpgroup copies, one scores and one gathers, a tile or two
// apart.
//
// A scoring warp multiplies 16 of a tile's keys with the queries. The scores go through shared memory: every
// gathering warp weighs all of them, which is cheaper than to exchange weights as well, and gathers 128 of
// the 512 columns.
#include "kernels/cuda/attention_tile.cuh"
#include "kernels/cuda/latent_sums.cuh"
#include "kernels/cuda/latent_tiles.cuh"

namespace penstock::cuda {
namespace {

constexpr int kWarps = 4;  // that score, and as many that gather
constexpr int kGroup = kWarps * kWarp;
constexpr int kThreads = kCopierThreads + 2 * kGroup;
constexpr int kCopierRegisters = 152, kScorerRegisters = 112, kGathererRegisters = 240;
constexpr int kWarpKeys = kTileKeys / kWarps;
constexpr int kWarpColumns = kLatentDim / kWarps;
constexpr int kScoreStride = kTileKeys + 8;  // in floats: rows 8 banks apart

/// Shared memory of a block.
constexpr int kQueriesAt = kLatentStages * kLatentTileBytes;
constexpr int kScoresAt = kQueriesAt + kWarpRows * kLatentKey * 2;
constexpr int kScoreBytes = kWarpRows * kScoreStride * static_cast<int>(sizeof(float));
constexpr int kSharedBytes = kScoresAt + Turns::kPlaces * kScoreBytes;

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
    load_matrices(a, query_row + static_cast<unsigned>(panel * kWarpRows * 128) + chunk(lane / 16));
    load_matrices(b, key_row + static_cast<unsigned>(panel * kTileKeys * 128) + chunk(lane / 8 % 2));
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
      load_matrices_transposed(b,
                               key_row + static_cast<unsigned>((panel * kTileKeys + k * 16) * 128) + chunk);
      multiply_add_f16(acc[2 * n], weights, b[0], b[1]);
      multiply_add_f16(acc[2 * n + 1], weights, b[2], b[3]);
    }
  }
}

__device__ float* scores_of(unsigned char* shared, int turn, int lane) {
  return reinterpret_cast<float*>(shared + kScoresAt + turn % Turns::kPlaces * kScoreBytes) +
         lane / 4 * kScoreStride + lane % 4 * 2;
}

__device__ void score(const LatentProblem& p, Turns& tiles, Turns& scores, unsigned char* shared) {
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  const int thread = static_cast<int>(threadIdx.x) - kCopierThreads;
  const int warp = thread / kWarp;
  const unsigned queries = shared_address(shared) + kQueriesAt;
  int turn = 0;
  for_each_unit<kShortItems>(p, [&](const LatentUnit& unit) {
    meet<kGroup>();  // nobody reads the queries of the unit before
    load_latent_queries<kWarpRows, kGroup>(queries, p, unit, thread);
    meet<kGroup>();
    for (int tile = unit.first_tile; tile < unit.end_tile; ++tile, ++turn) {
      float s[kWarpKeys / 8][4];
      tiles.wait_until_full(turn);
      score_keys(s, queries,
                 shared_address(shared) + static_cast<unsigned>(turn % kLatentStages * kLatentTileBytes),
                 warp, lane);
      scores.wait_for_room(turn);
      float* const to = scores_of(shared, turn, lane) + warp * kWarpKeys;
#pragma unroll
      for (int r = 0; r < 2; ++r)
#pragma unroll
        for (int n = 0; n < kWarpKeys / 8; ++n)
          *reinterpret_cast<float2*>(to + r * 8 * kScoreStride + n * 8) = {s[n][2 * r], s[n][2 * r + 1]};
      scores.publish(turn);
    }
  });
}

__device__ void gather(const LatentProblem& p, Turns& tiles, Turns& scores, unsigned char* shared) {
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  const int warp = static_cast<int>(threadIdx.x) / kWarp % kWarps;
  int turn = 0;
  for_each_unit<kShortItems>(p, [&](const LatentUnit& unit) {
    int seen[2];
    for (int r = 0; r < 2; ++r) seen[r] = unit.seen(p, lane / 4 + 8 * r);
    float acc[kWarpColumns / 8][4] = {}, whole[kWarpColumns / 8][4] = {};
    LatentTotal total;
    Softmax softmax;
    softmax.clear();
    for (int tile = unit.first_tile; tile < unit.end_tile; ++tile, ++turn) {
      float s[kTileKeys / 8][4], shrink[2];
      scores.wait_until_full(turn);
      const float* const from = scores_of(shared, turn, lane);
#pragma unroll
      for (int r = 0; r < 2; ++r)
#pragma unroll
        for (int n = 0; n < kTileKeys / 8; ++n) {
          const float2 pair = *reinterpret_cast<const float2*>(from + r * 8 * kScoreStride + n * 8);
          s[n][2 * r] = pair.x;
          s[n][2 * r + 1] = pair.y;
        }
      scores.release(turn);
      const int visible[2] = {seen[0] - tile * kTileKeys, seen[1] - tile * kTileKeys};
      if (softmax.weigh<HalfWeights>(s, visible, p.scale_log2, lane, shrink))
        multiply_rows<kWarpColumns>(acc, shrink);
      tiles.wait_until_full(turn);  // it is, as its scores are there
      add_latents(acc, s,
                  shared_address(shared) + static_cast<unsigned>(turn % kLatentStages * kLatentTileBytes),
                  warp, lane);
      tiles.release(turn);

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

/// Warpgroup 0 copies, 1 scores, 2 gathers.
template <class Format>
__global__ void __launch_bounds__(kThreads, 1) attend_short(const __grid_constant__ LatentProblem p) {
  extern __shared__ __align__(1024) unsigned char shared[];
  __shared__ Turns tiles, scores;
  if (threadIdx.x == 0) {
    tiles.start(kCopierThreads, kWarps);
    scores.start(kGroup, kWarps);
  }
  __syncthreads();
  switch (threadIdx.x / kGroup) {
    case 0:
      give_up_registers<kCopierRegisters>();
      LatentCopier<kShortItems, false>(p, tiles, shared_address(shared)).template copy_all<Format>();
      break;
    case 1:
      give_up_registers<kScorerRegisters>();
      score(p, tiles, scores, shared);
      break;
    default:
      take_registers<kGathererRegisters>();
      gather(p, tiles, scores, shared);
  }
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
