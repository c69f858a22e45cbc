#include <algorithm>

#include "kernels/cuda/grouped.h"
#include "kernels/cuda/grouped_plain.h"
#include "kernels/cuda/grouped_tile.cuh"
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

/// Starts copying `rows` rows of kStageK columns from `column` on to shared memory, of which those from
/// `end` on and the columns from k on are zeros.
template <class T, int kRows>
__device__ void copy_rows(__nv_bfloat16* to, const __nv_bfloat16* from, int64_t distance, int rows, int end,
                          int64_t column, int64_t k) {
  constexpr int kThreadsEach = T::kStageK / kChunk;
  const int at = static_cast<int>(threadIdx.x) % kThreadsEach * kChunk;
  const bool inside = column + at < k;
#pragma unroll
  for (int first = 0; first < kRows; first += kThreads / kThreadsEach) {
    const int r = first + static_cast<int>(threadIdx.x) / kThreadsEach;
    if (kRows % (kThreads / kThreadsEach) != 0 && r >= kRows) break;
    if (r >= rows) break;
    const bool zeros = r >= end || !inside;
    start_copy(to + r * T::kStride + at, from + (zeros ? 0 : r * distance + column + at), zeros);
  }
}

template <class T, class Out>
__global__ void __launch_bounds__(kThreads, 2) multiply_on_tensor_cores(GroupedProblem p, int column_tiles) {
  extern __shared__ __align__(128) unsigned char raw[];
  auto* const stages = reinterpret_cast<__nv_bfloat16*>(raw);
  const GroupTile tile = find_tile<kThreads>(p.start_G1, static_cast<int>(p.groups), static_cast<int>(p.rows),
                                             T::kRows, static_cast<int>(blockIdx.x) / column_tiles);
  if (tile.count == 0) return;
  const int64_t first_column = static_cast<int64_t>(blockIdx.x % column_tiles) * T::kColumns;
  const int columns = static_cast<int>(min(static_cast<int64_t>(T::kColumns), p.n - first_column));
  const auto* w = static_cast<const __nv_bfloat16*>(p.w_G[tile.group]) + first_column * p.k;
  const auto* x = static_cast<const __nv_bfloat16*>(p.x) + tile.group * p.x_group + tile.first * p.x_row;
  const int units = (tile.count + T::kUnit - 1) / T::kUnit;
  const int steps = static_cast<int>((p.k + T::kStageK - 1) / T::kStageK);
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  const int warp_row = static_cast<int>(threadIdx.x) / kWarp * T::kWarpTiles * 16;

  const auto start_stage = [&](int step) {
    if (step < steps) {
      __nv_bfloat16* to = stages + step % T::kStages * T::kStageElements;
      const int64_t column = static_cast<int64_t>(step) * T::kStageK;
      copy_rows<T, T::kColumns>(to, w, p.k, T::kColumns, columns, column, p.k);
      copy_rows<T, T::kRows>(to + T::kColumns * T::kStride, x, p.x_row, units * T::kUnit, tile.count, column,
                             p.k);
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

  Out* y = static_cast<Out*>(p.y) + tile.group * p.y_group + tile.first * p.y_row + first_column;
#pragma unroll
  for (int m = 0; m < T::kWarpTiles; ++m)
#pragma unroll
    for (int t = 0; t < T::kRows / 8; ++t)
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const int row = t * 8 + lane % 4 * 2 + i % 2;
        const int column = warp_row + m * 16 + lane / 4 + i / 2 * 8;
        // -0 becomes 0, as it does where a tile's last stage has more zeros to multiply.
        if (row < tile.count && column < columns) put(y[row * p.y_row + column], acc[m][t][i] + 0.0F);
      }
}

template <class T>
void launch(cudaStream_t stream, const GroupedProblem& p, DType out) {
  const int64_t column_tiles = (p.n + T::kColumns - 1) / T::kColumns;
  const auto blocks = static_cast<unsigned>(most_tiles(p, T::kRows) * column_tiles);
  with_type(out, [&](auto type) {
    const auto kernel = multiply_on_tensor_cores<T, decltype(type)>;
    check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, T::kBytes),
          "grouped product: shared memory");
    kernel<<<blocks, kThreads, T::kBytes, stream>>>(p, static_cast<int>(column_tiles));
  });
}

/// Copies take 16 bytes at a time.
bool rows_are_aligned(const GroupedProblem& p) {
  return reinterpret_cast<uintptr_t>(p.x) % 16 == 0 && p.k % kChunk == 0 && p.x_row % kChunk == 0 &&
         p.x_group % kChunk == 0;
}

}  // namespace

void grouped_product(cudaStream_t stream, const GroupedProblem& p, DType weight, DType out) {
  if (p.rows == 0 || p.groups == 0 || p.n == 0) return;
  if (weight != DType::bf16 || !rows_are_aligned(p)) return grouped_product_plain(stream, p, weight, out);
  // Of groups sized on the device most have less than twice the mean; the others get several tiles.
  const int64_t rows = p.start_G1 == nullptr ? p.rows : 2 * p.rows / p.groups;
  if (rows <= FewRows::kRows)
    launch<FewRows>(stream, p, out);
  else if (rows <= SomeRows::kRows)
    launch<SomeRows>(stream, p, out);
  else if (rows <= MoreRows::kRows)
    launch<MoreRows>(stream, p, out);
  else
    launch<ManyRows>(stream, p, out);
  check_launch("grouped product");
}

}  // namespace penstock::cuda
