#include <algorithm>

#include "kernels/cuda/grouped.h"
#include "kernels/cuda/grouped_epilogue.cuh"
#include "kernels/cuda/grouped_plain.h"
#include "kernels/cuda/grouped_tile.cuh"
#include "kernels/cuda/overlap.cuh"
#include "kernels/cuda/tensor_core.cuh"

namespace penstock::cuda {
namespace {

constexpr int kWarps = 4;
constexpr int kThreads = kWarps * kWarp;
constexpr int kChunk = 8;  // values of 16 bytes: what one copy takes

/// A tile of 64 kWarpTiles weight rows and kRows rows of x. Copies of kStageK columns run kStages - 1 stages
/// ahead. Of x, kUnit rows at a time are left out where the tile has fewer. None of this decides bits.
template <int kWarpTiles_, int kRows_, int kUnit_, int kStageK_, int kStages_>
struct Tiling {
  static constexpr int kWarpTiles = kWarpTiles_;  // of 16 weight rows, for each warp
  static constexpr int kColumns = kWarps * kWarpTiles * 16;
  static constexpr int kRows = kRows_;
  static constexpr int kUnit = kUnit_;
  static constexpr int kStageK = kStageK_;
  static constexpr int kStages = kStages_;
  static constexpr int kStride = kStageK + kChunk;  // so that the rows of one ldmatrix lie in different banks
  static constexpr int kStageElements = (kColumns + kRows) * kStride;
  static constexpr int kBytes = kStages * kStageElements * static_cast<int>(sizeof(__nv_bfloat16));
};
// Two blocks of each fit into the shared memory of a multiprocessor. The first three are bound by reading
// the weights, the last by the tensor cores.
using FewRows = Tiling<1, 16, 8, 128, 5>;
using SomeRows = Tiling<1, 32, 8, 128, 4>;
using MoreRows = Tiling<1, 64, 16, 128, 3>;
using ManyRows = Tiling<2, 128, 32, 64, 3>;

/// Starts copying kStageK columns of kRows rows, from `column` on, to shared memory. Row r is place(r) of
/// `from`, or zeros where that is negative; columns from k on are zeros.
template <class T, int kRows, class Place>
__device__ void copy_rows(__nv_bfloat16* to, const __nv_bfloat16* from, int64_t distance, int rows,
                          int64_t column, int64_t k, const Place& place) {
  constexpr int kThreadsEach = T::kStageK / kChunk;
  constexpr int kRowsAtOnce = kThreads / kThreadsEach;
  const int at = static_cast<int>(threadIdx.x) % kThreadsEach * kChunk;
  const bool inside = column + at < k;
#pragma unroll
  for (int first = 0; first < kRows; first += kRowsAtOnce) {
    const int r = first + static_cast<int>(threadIdx.x) / kThreadsEach;
    if (r >= rows) break;
    const int64_t row = place(r);
    const bool zeros = row < 0 || !inside;
    start_copy(to + r * T::kStride + at, from + (zeros ? 0 : row * distance + column + at), zeros);
  }
}

template <class T, bool kGated, class Out>
__global__ void __launch_bounds__(kThreads, 2) multiply_on_tensor_cores(GroupedProblem p, int column_tiles) {
  extern __shared__ __align__(128) unsigned char raw[];
  auto* const stages = reinterpret_cast<__nv_bfloat16*>(raw);
  let_next_start();
  wait_for_previous();
  const GroupTile tile = find_tile<kThreads>(p.start_G1, static_cast<int>(p.groups), static_cast<int>(p.rows),
                                             T::kRows, static_cast<int>(blockIdx.x) / column_tiles);
  if (tile.count == 0) return;
  constexpr int kColumns = T::kColumns / 16 * WeightRows<kGated>::kSixteen;
  const WeightRows<kGated> weight_rows{static_cast<int64_t>(blockIdx.x % column_tiles) * kColumns,
                                       kGated ? p.n / 2 : p.n};
  const auto x_rows = [&](int r) -> int64_t { return r < tile.count ? r : -1; };
  const auto* w = static_cast<const __nv_bfloat16*>(p.w_G[tile.group]);
  const auto* x = static_cast<const __nv_bfloat16*>(p.x) + tile.group * p.x_group + tile.first * p.x_row;
  const int units = (tile.count + T::kUnit - 1) / T::kUnit;
  const int steps = static_cast<int>((p.k + T::kStageK - 1) / T::kStageK);
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  const int warp_row = static_cast<int>(threadIdx.x) / kWarp * T::kWarpTiles * 16;

  const auto start_stage = [&](int step) {
    if (step < steps) {
      __nv_bfloat16* to = stages + step % T::kStages * T::kStageElements;
      const int64_t column = static_cast<int64_t>(step) * T::kStageK;
      copy_rows<T, T::kColumns>(to, w, p.k, T::kColumns, column, p.k, weight_rows);
      copy_rows<T, T::kRows>(to + T::kColumns * T::kStride, x, p.x_row, units * T::kUnit, column, p.k,
                             x_rows);
    }
    close_copies();
  };
#pragma unroll
  for (int s = 0; s < T::kStages - 1; ++s) start_stage(s);

  float acc[T::kWarpTiles][T::kRows / 8][4] = {};
  for (int step = 0; step < steps; ++step) {
    wait_for_copies<T::kStages - 2>();
    __syncthreads();
    start_stage(step + T::kStages - 1);
    const __nv_bfloat16* w_shared = stages + step % T::kStages * T::kStageElements;
    const __nv_bfloat16* x_shared = w_shared + T::kColumns * T::kStride;
#pragma unroll
    for (int i = 0; i < T::kStageK; i += 32) {
      uint32_t a[T::kWarpTiles][2][4];
#pragma unroll
      for (int m = 0; m < T::kWarpTiles; ++m)
#pragma unroll
        for (int half = 0; half < 2; ++half)
          load_matrices(a[m][half], w_shared + (warp_row + m * 16 + lane % 16) * T::kStride + i + half * 16 +
                                        lane / 16 * 8);
#pragma unroll
      for (int unit = 0; unit < T::kRows / T::kUnit; ++unit) {
        if (unit >= units) break;
#pragma unroll
        for (int t = unit * (T::kUnit / 8); t < (unit + 1) * (T::kUnit / 8); ++t) {
          uint32_t b[4];
          load_matrices(b, x_shared + (t * 8 + lane % 8) * T::kStride + i + lane / 8 * 8);
#pragma unroll
          for (int m = 0; m < T::kWarpTiles; ++m) {
            multiply_add_bf16(acc[m][t], a[m][0], b[0], b[1]);
            multiply_add_bf16(acc[m][t], a[m][1], b[2], b[3]);
          }
        }
      }
    }
  }

  Out* y = static_cast<Out*>(p.y) + tile.group * p.y_group + tile.first * p.y_row;
#pragma unroll
  for (int m = 0; m < T::kWarpTiles; ++m)
    store_products(y, p.y_row, tile.count, weight_rows, warp_row + m * 16, acc[m]);
}

template <class T, bool kGated>
void launch(cudaStream_t stream, const GroupedProblem& p, DType out) {
  const int64_t column_tiles = (p.n + T::kColumns - 1) / T::kColumns;
  const auto blocks = static_cast<unsigned>(most_tiles(p, T::kRows) * column_tiles);
  with_type(out, [&](auto type) {
    const auto kernel = multiply_on_tensor_cores<T, kGated, decltype(type)>;
    check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, T::kBytes),
          "grouped product: shared memory");
    launch_overlapped("grouped product", stream, kernel, blocks, kThreads, T::kBytes, p,
                      static_cast<int>(column_tiles));
  });
}

template <class T>
void launch(cudaStream_t stream, const GroupedProblem& p, DType out) {
  if (p.gated)
    launch<T, true>(stream, p, out);
  else
    launch<T, false>(stream, p, out);
}

}  // namespace

int64_t expected_rows(const GroupedProblem& p) {
  return p.start_G1 == nullptr ? p.rows : 2 * p.rows / p.groups;
}

bool on_tensor_cores(const GroupedProblem& p, DType weight) {
  // Copies take 16 bytes at a time.
  return weight == DType::bf16 && reinterpret_cast<uintptr_t>(p.x) % 16 == 0 && p.k % kChunk == 0 &&
         p.x_row % kChunk == 0 && p.x_group % kChunk == 0;
}

void grouped_product(cudaStream_t stream, const GroupedProblem& p, DType weight, DType out) {
  if (p.rows == 0 || p.groups == 0 || p.n == 0) return;
  if (!on_tensor_cores(p, weight)) return grouped_product_plain(stream, p, weight, out);
  const int64_t rows = expected_rows(p);  // a group that has more gets several tiles
  if (rows <= FewRows::kRows)
    launch<FewRows>(stream, p, out);
  else if (rows <= SomeRows::kRows)
    launch<SomeRows>(stream, p, out);
  else if (rows <= MoreRows::kRows)
    launch<MoreRows>(stream, p, out);
  else
    launch<ManyRows>(stream, p, out);
}

}  // namespace penstock::cuda
