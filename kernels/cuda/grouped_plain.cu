#include <algorithm>

#include "kernels/cuda/grouped_plain.h"
#include "kernels/cuda/grouped_tile.cuh"

namespace penstock::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kRows = 32;
constexpr int kColumns = 64;
constexpr int kStageK = 16;

/// A 32 x 64 tile of y, 2 x 4 values a thread.
template <class T, class Out>
__global__ void __launch_bounds__(kThreads) multiply_plainly(GroupedProblem p, int column_tiles) {
  __shared__ float x_shared[kStageK][kRows + 1];
  __shared__ float w_shared[kStageK][kColumns + 1];
  const GroupTile tile = find_tile<kThreads>(p.start_G1, static_cast<int>(p.groups), static_cast<int>(p.rows),
                                             kRows, static_cast<int>(blockIdx.x) / column_tiles);
  if (tile.count == 0) return;
  const int64_t first_column = static_cast<int64_t>(blockIdx.x % column_tiles) * kColumns;
  const int columns = static_cast<int>(min(static_cast<int64_t>(kColumns), p.n - first_column));
  const T* w = static_cast<const T*>(p.w_G[tile.group]) + first_column * p.k;
  const T* x = static_cast<const T*>(p.x) + tile.group * p.x_group + tile.first * p.x_row;
  const int thread = static_cast<int>(threadIdx.x);
  const int row = thread / 16 * 2;
  const int column = thread % 16;

  float acc[2][4] = {};
  for (int64_t begin = 0; begin < p.k; begin += kStageK) {
    const int width = static_cast<int>(min(static_cast<int64_t>(kStageK), p.k - begin));
    const int i = thread % kStageK;
    for (int r = thread / kStageK; r < kRows; r += kThreads / kStageK)
      x_shared[i][r] = r < tile.count && i < width ? widen(x[r * p.x_row + begin + i]) : 0;
    for (int c = thread / kStageK; c < kColumns; c += kThreads / kStageK)
      w_shared[i][c] = c < columns && i < width ? widen(w[c * p.k + begin + i]) : 0;
    __syncthreads();
    for (int k = 0; k < width; ++k)
#pragma unroll
      for (int r = 0; r < 2; ++r)
#pragma unroll
        for (int c = 0; c < 4; ++c)
          acc[r][c] = fmaf(x_shared[k][row + r], w_shared[k][column + c * 16], acc[r][c]);
    __syncthreads();
  }

  Out* y = static_cast<Out*>(p.y) + tile.group * p.y_group + tile.first * p.y_row + first_column;
  for (int r = 0; r < 2; ++r)
    for (int c = 0; c < 4; ++c)
      if (row + r < tile.count && column + c * 16 < columns)
        put(y[(row + r) * p.y_row + column + c * 16], acc[r][c]);
}

}  // namespace

void grouped_product_plain(cudaStream_t stream, const GroupedProblem& p, DType weight, DType out) {
  const int64_t column_tiles = (p.n + kColumns - 1) / kColumns;
  const auto blocks = static_cast<unsigned>(most_tiles(p, kRows) * column_tiles);
  with_type(weight, [&](auto from) {
    with_type(out, [&](auto to) {
      multiply_plainly<decltype(from), decltype(to)>
          <<<blocks, kThreads, 0, stream>>>(p, static_cast<int>(column_tiles));
    });
  });
  check_launch("grouped product, plain");
}

}  // namespace penstock::cuda
