// What becomes of the sums of a grouped product, however they were computed.
#pragma once

#include "kernels/cuda/silu.cuh"

namespace penstock::cuda {

/// What the rows of a weight tile are. Of a gated product, 8 rows of gate and the 8 rows of up that belong to
/// them take turns: then one thread has both of a feature.
template <bool kGated>
struct WeightRows {
  static constexpr int kSixteen = kGated ? 8 : 16;  // columns of y that 16 rows make
  int64_t first;                                    // column of y
  int64_t width;                                    // of y

  /// The row of the weight, or -1.
  __device__ int64_t operator()(int r) const {
    const int64_t column = first + (kGated ? r / 16 * 8 + r % 8 : r);
    if (column >= width) return -1;
    return kGated && r % 16 >= 8 ? width + column : column;
  }
};

/// Writes the columns of y that a warp's 16 rows of a weight tile make, `tile_row` the first of them, in rows
/// 0 ... rows - 1 of y. acc[t] is the product of the 16 with rows 8 t ... 8 t + 7, as mma.m16n8k16 leaves it.
template <bool kGated, int kEights, class Out>
__device__ void store_products(Out* y, int64_t y_row, int rows, const WeightRows<kGated>& weight_rows,
                               int tile_row, const float (&acc)[kEights][4]) {
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  const int64_t column = weight_rows.first + tile_row / 16 * WeightRows<kGated>::kSixteen + lane / 4;
#pragma unroll
  for (int t = 0; t < kEights; ++t) {
    if (t * 8 >= rows) break;
    // -0 becomes 0, as it does where there are more zeros to multiply at the end of K.
    float sum[4];
#pragma unroll
    for (int i = 0; i < 4; ++i) sum[i] = acc[t][i] + 0.0F;
    const int row = t * 8 + lane % 4 * 2;
    if constexpr (kGated) {
      const bool near = __all_sync(kAllLanes, is_near(sum[0]) & is_near(sum[1]));
#pragma unroll
      for (int i = 0; i < 2; ++i)
        if (row + i < rows && column < weight_rows.width)
          put(y[(row + i) * y_row + column],
              near ? silu_times_near(sum[i], sum[i + 2]) : silu_times(sum[i], sum[i + 2]));
    } else {
#pragma unroll
      for (int i = 0; i < 4; ++i)
        if (row + i % 2 < rows && column + i / 2 * 8 < weight_rows.width)
          put(y[(row + i % 2) * y_row + column + i / 2 * 8], sum[i]);
    }
  }
}

}  // namespace penstock::cuda
