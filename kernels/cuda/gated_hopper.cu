// A persistent product on wgmma. A tile is 128 tokens by 128 features, gate and up of each: two warpgroups of
// 64 tokens hold 64 x 256 accumulators and compute; one thread of a third has the copy engine fill a ring of
// four stages of K, also while the others are in the epilogue. Two blocks of a cluster share what they have
// in common: each reads half of it and the copy engine hands it to both.
//
// Floor: a stage is 128 x 256 x 64 multiply-adds, 1024 cycles of a multiprocessor's tensor cores, for 48 KiB
// through shared memory, of which a block reads 32 from the L2 cache.
#include "kernels/cuda/gated_hopper.h"
#include "kernels/cuda/silu.cuh"
#include "kernels/cuda/tensor_map.h"
#include "kernels/cuda/tile_copy.cuh"

namespace penstock::cuda {
namespace {

constexpr int kGroups = 2;      // warpgroups that compute
constexpr int kGroupRows = 64;  // tokens of each
constexpr int kTileTokens = kGroups * kGroupRows;
constexpr int kTileFeatures = 128;
constexpr int kTileK = kPanelColumns;
constexpr int kStages = 4;
constexpr int kThreads = (kGroups + 1) * kWarpgroup;
constexpr int kCopierRegisters = 40, kComputerRegisters = 232;
/// Clusters work on so many tokens at a time through all features: their inputs stay in the L2 cache.
constexpr int kBandTokens = 2048;

/// Shared memory of a block, in bytes; tiles begin at multiples of 1024.
struct Layout {
  static constexpr int kRow = kTileK * 2;
  static constexpr int kTokens = kTileTokens * kRow;
  static constexpr int kWeight = kTileFeatures * kRow;  // of gate; as much for up
  static constexpr int kStage = kTokens + 2 * kWeight;
  static constexpr int kOut = kStages * kStage;  // where the output begins
  static constexpr int kOutPanel = kGroupRows * kRow;
  static constexpr int kOutGroup = kTileFeatures / kPanelColumns * kOutPanel;
  static constexpr int kBytes = kOut + kGroups * kOutGroup;
};

struct Problem {
  CUtensorMap x_MK;   // in tiles of kGroupRows
  CUtensorMap w_2FK;  // in tiles of kTileFeatures
  CUtensorMap y_MF;   // in tiles of kGroupRows
  int m, f, k;
};

/// What the blocks of a cluster have in common.
enum class Pair { weights, tokens };

/// full: a stage has been copied; empty: all warps of the cluster that compute are through with it.
struct Stages {
  Barrier full[kStages];
  Barrier empty[kStages];
};

/// The tiles in the order in which clusters take them.
template <Pair kPair>
struct Tiles {
  static constexpr int kTokens = kPair == Pair::weights ? kClusterBlocks * kTileTokens : kTileTokens;
  static constexpr int kFeatures = kPair == Pair::tokens ? kClusterBlocks * kTileFeatures : kTileFeatures;
  static constexpr int kBand = kBandTokens / kTokens;
  int rows, columns;  // of clusters' tiles

  __host__ __device__ Tiles(int m, int f)
      : rows((m + kTokens - 1) / kTokens), columns((f + kFeatures - 1) / kFeatures) {}
  __host__ __device__ int count() const { return rows * columns; }
  /// The first token and the first feature of this block's part of a tile.
  __device__ int2 first(int tile, int block) const {
    const int band = tile / (kBand * columns);
    const int high = min(kBand, rows - band * kBand);
    const int within = tile % (kBand * columns);
    int2 at{(band * kBand + within % high) * kTokens, within / high * kFeatures};
    (kPair == Pair::weights ? at.x : at.y) += block * (kPair == Pair::weights ? kTileTokens : kTileFeatures);
    return at;
  }
};

/// One thread copies what this block is to read.
template <Pair kPair>
__device__ void copy_tiles(const Problem& p, const Tiles<kPair>& tiles, Stages& stages, unsigned shared,
                           int first_tile, int clusters, int block) {
  int step = 0;
  for (int tile = first_tile; tile < tiles.count(); tile += clusters) {
    const int2 at = tiles.first(tile, block);
    for (int k = 0; k < p.k; k += kTileK, ++step) {
      const int stage = step % kStages;
      if (step >= kStages) stages.empty[stage].wait_for_cluster(step / kStages - 1);
      Barrier& full = stages.full[stage];
      full.arrive_and_expect(Layout::kStage);
      const unsigned x = shared + static_cast<unsigned>(stage * Layout::kStage);
      const unsigned gate = x + Layout::kTokens, up = gate + Layout::kWeight;
      if constexpr (kPair == Pair::weights) {
        for (int g = 0; g < kGroups; ++g)
          read_tile(x + static_cast<unsigned>(g * kGroupRows * Layout::kRow), p.x_MK, at.x + g * kGroupRows,
                    k, full);
        read_tile_for_all(block == 0 ? gate : up, p.w_2FK, block == 0 ? at.y : p.f + at.y, k, full);
      } else {
        read_tile_for_all(x + static_cast<unsigned>(block * kGroupRows * Layout::kRow), p.x_MK,
                          at.x + block * kGroupRows, k, full);
        read_tile(gate, p.w_2FK, at.y, k, full);
        read_tile(up, p.w_2FK, p.f + at.y, k, full);
      }
    }
  }
}

__device__ uint32_t pack(float low, float high) {
  const __nv_bfloat162 both = __floats2bfloat162_rn(low, high);
  return *reinterpret_cast<const uint32_t*>(&both);
}

/// The gated values of this warpgroup's 64 x 128 outputs, to shared memory. acc[n] are columns 8 n ... 8 n +
/// 7, those of up after those of gate.
__device__ void gate_outputs(const float (&acc)[32][4], unsigned out) {
  constexpr int kColumns = kTileFeatures / 8;
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  const int warp = static_cast<int>(threadIdx.x) % kWarpgroup / kWarp;
  const int row = warp * 16 + lane % 16;  // where this lane's row of store_matrices goes
#pragma unroll
  for (int n = 0; n < kColumns; n += 2) {
    bool near = true;
#pragma unroll
    for (int i = 0; i < 8; ++i) near &= is_near(acc[n + i / 4][i % 4]);
    float y[8];
    if (__all_sync(kAllLanes, near)) {
#pragma unroll
      for (int i = 0; i < 8; ++i)
        y[i] = silu_times_near(acc[n + i / 4][i % 4], acc[kColumns + n + i / 4][i % 4]);
    } else {
#pragma unroll
      for (int i = 0; i < 8; ++i) y[i] = silu_times(acc[n + i / 4][i % 4], acc[kColumns + n + i / 4][i % 4]);
    }
    const uint32_t packed[4] = {pack(y[0], y[1]), pack(y[2], y[3]), pack(y[4], y[5]), pack(y[6], y[7])};
    store_matrices(out + swizzled(kGroupRows, row, n + lane / 16), packed);
  }
}

template <Pair kPair>
__device__ void compute(const Problem& p, const Tiles<kPair>& tiles, Stages& stages, unsigned shared,
                        int first_tile, int clusters, int block) {
  const int thread = static_cast<int>(threadIdx.x) % kWarpgroup;
  // The shuffle tells the compiler that all lanes have the same.
  const int group = __shfl_sync(kAllLanes, static_cast<int>(threadIdx.x) / kWarpgroup - 1, 0);
  const unsigned out = shared + static_cast<unsigned>(Layout::kOut + group * Layout::kOutGroup);
  const auto release = [&](int step) {
    if (thread % kWarp < kClusterBlocks) stages.empty[step % kStages].arrive_in(thread % kWarp);
  };
  float acc[32][4];
  int step = 0;
  for (int tile = first_tile; tile < tiles.count(); tile += clusters) {
    for (int k = 0; k < p.k; k += kTileK, ++step) {
      const int stage = step % kStages;
      stages.full[stage].wait_for(step / kStages);
      const unsigned x = shared + static_cast<unsigned>(stage * Layout::kStage);
      const unsigned own = x + static_cast<unsigned>(group * kGroupRows * Layout::kRow);
      begin_products();
#pragma unroll
      for (int i = 0; i < kTileK / 16; ++i)
        multiply_bf16(acc, describe(own + i * 32, 16), describe(x + Layout::kTokens + i * 32, 16),
                      k > 0 || i > 0);
      close_products();
      wait_for_products<1>();
      if (k > 0) release(step - 1);
    }
    wait_for_products<0>(acc);
    release(step - 1);

    if (thread == 0) wait_for_tiles_read();
    wait_for_warpgroup(1 + group);
    gate_outputs(acc, out);
    publish_to_products();
    wait_for_warpgroup(1 + group);
    if (thread == 0) {
      const int2 at = tiles.first(tile, block);
      for (int panel = 0; panel < kTileFeatures / kPanelColumns; ++panel)
        write_tile(p.y_MF, at.x + group * kGroupRows, at.y + panel * kPanelColumns,
                   out + static_cast<unsigned>(panel * Layout::kOutPanel));
      close_tiles();
    }
  }
  if (thread == 0) wait_for_tiles_read();
}

/// Clusters of two blocks, at most as many as run at once. Warpgroup 0 copies, 1 and 2 compute.
template <Pair kPair>
__global__ void __cluster_dims__(kClusterBlocks) __launch_bounds__(kThreads, 1)
    multiply_gated(const __grid_constant__ Problem p) {
  extern __shared__ __align__(1024) unsigned char shared[];
  __shared__ Stages stages;
  if (threadIdx.x == 0) {
    for (int i = 0; i < kStages; ++i) {
      stages.full[i].start(1);
      stages.empty[i].start(kClusterBlocks * kGroups * kWarpgroup / kWarp);
    }
    publish_barriers();
  }
  wait_for_cluster();
  const Tiles<kPair> tiles(p.m, p.f);
  const int cluster = static_cast<int>(blockIdx.x) / kClusterBlocks;
  const int clusters = static_cast<int>(gridDim.x) / kClusterBlocks;
  const int block = block_in_cluster();
  if (threadIdx.x < kWarpgroup) {
    give_up_registers<kCopierRegisters>();
    if (threadIdx.x == 0)
      copy_tiles<kPair>(p, tiles, stages, shared_address(shared), cluster, clusters, block);
    __syncwarp();
  } else {
    take_registers<kComputerRegisters>();
    compute<kPair>(p, tiles, stages, shared_address(shared), cluster, clusters, block);
  }
  wait_for_cluster();  // until no block arrives at this one's barriers any more
}

template <Pair kPair>
void launch(cudaStream_t stream, const Problem& p, int multiprocessors) {
  const auto kernel = multiply_gated<kPair>;
  check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, Layout::kBytes),
        "gated product: shared memory");
  const int clusters = min(Tiles<kPair>(p.m, p.f).count(), multiprocessors / kClusterBlocks);
  kernel<<<static_cast<unsigned>(clusters * kClusterBlocks), kThreads, Layout::kBytes, stream>>>(p);
  check_launch("gated product");
}

}  // namespace

bool gated_hopper_serves(int64_t f, int64_t k) {
  return f % 8 == 0 && k % kTileK == 0;
}

void gated_product(cudaStream_t stream, void* y_MF, const void* x_MK, const void* w_2FK, int64_t m, int64_t f,
                   int64_t k, int multiprocessors) {
  const Problem p{map_tiles(x_MK, m, k, kGroupRows),
                  map_tiles(w_2FK, 2 * f, k, kTileFeatures),
                  map_tiles(y_MF, m, f, kGroupRows),
                  static_cast<int>(m),
                  static_cast<int>(f),
                  static_cast<int>(k)};
  // Sharing the weight reads less, but takes tiles of tokens two by two.
  const int64_t token_tiles = (m + kTileTokens - 1) / kTileTokens;
  if (token_tiles % kClusterBlocks == 0)
    launch<Pair::weights>(stream, p, multiprocessors);
  else
    launch<Pair::tokens>(stream, p, multiprocessors);
}

}  // namespace penstock::cuda
