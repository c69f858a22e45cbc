// A persistent grouped product on wgmma. A tile is 256 rows of a weight by up to 128 rows of its group: two
// warpgroups, each with 128 of the weight's rows, compute; one thread of a third has the copy engine fill a
// ring of four stages of K, also while the others write what they have.
//
// Floor: a stage is 256 x 128 x 64 multiply-adds, 1024 cycles of a multiprocessor's tensor cores, for 48 KiB
// from the L2 cache. Up to some 100 rows a group it is reading the weights from memory that takes longest,
// with more rows the L2 cache, which gives a multiprocessor about half of those 48 bytes a cycle.
#include "kernels/cuda/grouped_epilogue.cuh"
#include "kernels/cuda/grouped_hopper.h"
#include "kernels/cuda/grouped_tile.cuh"
#include "kernels/cuda/overlap.cuh"
#include "kernels/cuda/tensor_map.h"
#include "kernels/cuda/tile_copy.cuh"

namespace penstock::cuda {
namespace {

constexpr int kComputers = 2;  // warpgroups
constexpr int kThreads = (kComputers + 1) * kWarpgroup;
constexpr int kTileRows = 128;  // of x
constexpr int kHalf = 64;  // rows of x that one copy reads: the second half is left out where it is empty
constexpr int kTileK = kPanelColumns;
constexpr int kStages = 4;
constexpr int kCopierRegisters = 40, kComputerRegisters = 232;
constexpr int64_t kMostGroups = 1024;

/// Shared memory of a block, in bytes; tiles begin at multiples of 1024.
struct Layout {
  static constexpr int kRow = kTileK * 2;
  static constexpr int kWeight = kHopperColumns * kRow;
  static constexpr int kHalfTile = kHalf * kRow;
  static constexpr int kStage = kWeight + kTileRows / kHalf * kHalfTile;
  static constexpr int kBytes = kStages * kStage;
};

/// full: a stage has been copied; empty: all warps that compute are through with it.
struct Stages {
  Barrier full[kStages];
  Barrier empty[kStages];
};

/// The tiles of rows, group after group.
struct RowTiles {
  int before_G1[kMostGroups + 1];  // tiles of the groups before

  /// Called by all threads of the block.
  __device__ void count(const int32_t* start_G1, int groups) {
    __shared__ int shared[kThreads / kWarp];
    const int each = (groups + kThreads - 1) / kThreads;
    const int begin = static_cast<int>(threadIdx.x) * each;
    const int end = min(begin + each, groups);
    int mine = 0;
    for (int g = begin; g < end; ++g) mine += tiles_of(start_G1, g);
    int before = running_sum<kThreads>(mine, shared) - mine;
    for (int g = begin; g < end; ++g) {
      before_G1[g] = before;
      before += tiles_of(start_G1, g);
      if (g == groups - 1) before_G1[groups] = before;
    }
    __syncthreads();
  }
  /// Of a tile that does not come before the one asked for last, whose group is `last`.
  __device__ GroupTile at(int tile, const int32_t* start_G1, int last) const {
    int g = last;
    while (before_G1[g + 1] <= tile) ++g;
    const int first = start_G1[g] + (tile - before_G1[g]) * kTileRows;
    return {g, first, min(kTileRows, start_G1[g + 1] - first)};
  }

 private:
  __device__ static int tiles_of(const int32_t* start_G1, int g) {
    return (start_G1[g + 1] - start_G1[g] + kTileRows - 1) / kTileRows;
  }
};

/// One thread copies.
template <bool kGated>
__device__ void copy_tiles(const GroupedProblem& p, const CUtensorMap& x_map, const CUtensorMap* w_maps_G,
                           const RowTiles& row_tiles, int column_tiles, Stages& stages, unsigned shared) {
  const int tiles = row_tiles.before_G1[p.groups] * column_tiles;
  GroupTile rows;
  int step = 0;
  for (int tile = static_cast<int>(blockIdx.x); tile < tiles; tile += static_cast<int>(gridDim.x)) {
    rows = row_tiles.at(tile / column_tiles, p.start_G1, rows.group);
    const CUtensorMap& w_map = w_maps_G[rows.group];
    see_map(w_map);
    const int first_eight = tile % column_tiles * (kHopperColumns / 8 / (kGated ? 2 : 1));
    const int halves = (rows.count + kHalf - 1) / kHalf;
    for (int k = 0; k < p.k; k += kTileK, ++step) {
      const int stage = step % kStages;
      if (step >= kStages) stages.empty[stage].wait_for(step / kStages - 1);
      Barrier& full = stages.full[stage];
      full.arrive_and_expect(Layout::kWeight + halves * Layout::kHalfTile);
      const unsigned w = shared + static_cast<unsigned>(stage * Layout::kStage);
      read_weight(w, w_map, first_eight, k, full);
      for (int h = 0; h < halves; ++h)
        read_tile(w + static_cast<unsigned>(Layout::kWeight + h * Layout::kHalfTile), x_map,
                  rows.first + h * kHalf, k, full);
    }
  }
}

/// Sums of this warpgroup's 128 rows of the weight with kRows rows of x, and what becomes of them. Returns
/// the step after the tile's last one.
template <int kRows, bool kGated, class Out>
__device__ int compute_tile(const GroupedProblem& p, const GroupTile& rows,
                            const WeightRows<kGated>& weight_rows, Stages& stages, unsigned shared, int group,
                            int step) {
  const bool tells = threadIdx.x % kWarp == 0;
  float acc[2][kRows / 8][4];
  for (int k = 0; k < p.k; k += kTileK, ++step) {
    const int stage = step % kStages;
    stages.full[stage].wait_for(step / kStages);
    const unsigned w = shared + static_cast<unsigned>(stage * Layout::kStage);
    const unsigned own = w + static_cast<unsigned>(group * 128 * Layout::kRow);
    const unsigned x = w + Layout::kWeight;
    begin_products();
#pragma unroll
    for (int i = 0; i < kTileK / 16; ++i)
#pragma unroll
      for (int m = 0; m < 2; ++m)
        multiply_bf16(acc[m], describe(own + m * 64 * Layout::kRow + i * 32, 16), describe(x + i * 32, 16),
                      k > 0 || i > 0);
    close_products();
    wait_for_products<1>();
    if (k > 0 && tells) stages.empty[(step - 1) % kStages].arrive();
  }
  wait_for_products<0>(acc[0]);
  wait_for_products<0, 1>(acc[1]);
  if (tells) stages.empty[(step - 1) % kStages].arrive();

  Out* y = static_cast<Out*>(p.y) + rows.first * p.y_row;
  const int warp = static_cast<int>(threadIdx.x) % kWarpgroup / kWarp;
#pragma unroll
  for (int m = 0; m < 2; ++m)
    store_products(y, p.y_row, rows.count, weight_rows, group * 128 + m * 64 + warp * 16, acc[m]);
  return step;
}

/// Warpgroup 0 copies, 1 and 2 compute.
template <bool kGated, class Out>
__global__ void __launch_bounds__(kThreads, 1)
    multiply_groups(const __grid_constant__ GroupedProblem p, const __grid_constant__ CUtensorMap x_map,
                    const CUtensorMap* w_maps_G, int column_tiles) {
  extern __shared__ __align__(1024) unsigned char raw[];
  __shared__ Stages stages;
  __shared__ RowTiles row_tiles;
  if (threadIdx.x == 0) {
    for (int i = 0; i < kStages; ++i) {
      stages.full[i].start(1);
      stages.empty[i].start(kComputers * kWarpgroup / kWarp);
    }
    publish_barriers();
  }
  let_next_start();
  wait_for_previous();
  row_tiles.count(p.start_G1, static_cast<int>(p.groups));
  const unsigned shared = shared_address(raw);
  if (threadIdx.x < kWarpgroup) {
    give_up_registers<kCopierRegisters>();
    if (threadIdx.x == 0) copy_tiles<kGated>(p, x_map, w_maps_G, row_tiles, column_tiles, stages, shared);
    return;
  }
  take_registers<kComputerRegisters>();
  // The shuffle tells the compiler that all lanes have the same.
  const int group = __shfl_sync(kAllLanes, static_cast<int>(threadIdx.x) / kWarpgroup - 1, 0);
  const int tiles = row_tiles.before_G1[p.groups] * column_tiles;
  GroupTile rows;
  int step = 0;
  for (int tile = static_cast<int>(blockIdx.x); tile < tiles; tile += static_cast<int>(gridDim.x)) {
    rows = row_tiles.at(tile / column_tiles, p.start_G1, rows.group);
    const WeightRows<kGated> weight_rows{
        static_cast<int64_t>(tile % column_tiles) * (kHopperColumns / 16 * WeightRows<kGated>::kSixteen),
        kGated ? p.n / 2 : p.n};
    if (rows.count <= kHalf)
      step = compute_tile<kHalf, kGated, Out>(p, rows, weight_rows, stages, shared, group, step);
    else
      step = compute_tile<kTileRows, kGated, Out>(p, rows, weight_rows, stages, shared, group, step);
  }
}

template <bool kGated>
void launch(cudaStream_t stream, const GroupedProblem& p, const CUtensorMap& x_map,
            const CUtensorMap* w_maps_G, DType out, int multiprocessors) {
  const int64_t column_tiles = (p.n + kHopperColumns - 1) / kHopperColumns;
  const auto blocks =
      static_cast<unsigned>(std::min<int64_t>(most_tiles(p, kTileRows) * column_tiles, multiprocessors));
  with_type(out, [&](auto type) {
    const auto kernel = multiply_groups<kGated, decltype(type)>;
    check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, Layout::kBytes),
          "grouped product on wgmma: shared memory");
    launch_overlapped("grouped product on wgmma", stream, kernel, blocks, kThreads, Layout::kBytes, p, x_map,
                      w_maps_G, static_cast<int>(column_tiles));
  });
}

}  // namespace

bool grouped_hopper_serves(const GroupedProblem& p) {
  return p.start_G1 != nullptr && p.x_row == p.k && p.groups <= kMostGroups && p.n % (p.gated ? 16 : 8) == 0;
}

void grouped_product_hopper(cudaStream_t stream, const GroupedProblem& p, const CUtensorMap* w_maps_G,
                            DType out, int multiprocessors) {
  const CUtensorMap x_map = map_tiles(p.x, p.rows, p.k, kHalf);
  if (p.gated)
    launch<true>(stream, p, x_map, w_maps_G, out, multiprocessors);
  else
    launch<false>(stream, p, x_map, w_maps_G, out, multiprocessors);
}

}  // namespace penstock::cuda
