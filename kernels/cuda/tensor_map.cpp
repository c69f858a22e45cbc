#include "kernels/cuda/tensor_map.h"

#include <cuda_runtime_api.h>

#include <array>
#include <string>

#include "runtime/device/cuda_handle.h"

namespace penstock::cuda {
namespace {

constexpr int64_t kPanelColumns = 64;  // 128 bytes, what the swizzle spans

/// The driver's function, found when it is needed: the program must start without a driver.
decltype(&cuTensorMapEncodeTiled) encoder() {
  void* function = nullptr;
  cudaDriverEntryPointQueryResult found{};
  check(
      cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &function, 12000, cudaEnableDefault, &found),
      "look for cuTensorMapEncodeTiled");
  if (found != cudaDriverEntryPointSuccess)
    throw Error("CUDA: expected a driver of CUDA 12 or later, found one without cuTensorMapEncodeTiled");
  return reinterpret_cast<decltype(&cuTensorMapEncodeTiled)>(function);
}

/// Sizes and tile count elements, the nearest neighbours first; strides count bytes, that of neighbours left
/// out.
template <size_t kRank>
CUtensorMap map(const void* data, const std::array<int64_t, kRank>& sizes,
                const std::array<int64_t, kRank - 1>& strides, const std::array<int64_t, kRank>& tile) {
  cuuint64_t size[kRank], stride[kRank - 1];
  cuuint32_t box[kRank], every[kRank];
  for (size_t i = 0; i < kRank; ++i) {
    size[i] = static_cast<cuuint64_t>(sizes[i]);
    if (i + 1 < kRank) stride[i] = static_cast<cuuint64_t>(strides[i]);
    box[i] = static_cast<cuuint32_t>(tile[i]);
    every[i] = 1;
  }
  CUtensorMap made{};
  const CUresult status =
      encoder()(&made, CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, kRank, const_cast<void*>(data), size, stride, box,
                every, CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B,
                CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  if (status != CUDA_SUCCESS)
    throw Error("CUDA: describing a matrix of " + std::to_string(sizes[1]) +
                " rows for tile copies: status " + std::to_string(status));
  return made;
}

}  // namespace

CUtensorMap map_tiles(const void* data, int64_t rows, int64_t columns, int tile_rows) {
  return map<2>(data, {columns, rows}, {columns * 2}, {kPanelColumns, tile_rows});
}

CUtensorMap map_panels(const void* data, int64_t rows, int64_t columns, int tile_rows, int panels) {
  return map<3>(data, {kPanelColumns, rows, columns / kPanelColumns}, {columns * 2, kPanelColumns * 2},
                {kPanelColumns, tile_rows, panels});
}

CUtensorMap map_weight(const void* data, int64_t n, int64_t k, int halves, int tile_rows) {
  const int64_t half = n / halves;
  return map<4>(data, {k, 8, halves, half / 8}, {k * 2, half * k * 2, 8 * k * 2},
                {kPanelColumns, 8, halves, tile_rows / 8 / halves});
}

}  // namespace penstock::cuda
