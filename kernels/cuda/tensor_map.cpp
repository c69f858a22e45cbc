#include "kernels/cuda/tensor_map.h"

#include <cuda_runtime_api.h>

#include "runtime/device/cuda_handle.h"

namespace penstock::cuda {
namespace {

constexpr uint32_t kTileColumns = 64;  // 128 bytes, what the swizzle spans

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

}  // namespace

CUtensorMap map_tiles(const void* data, int64_t rows, int64_t columns, int tile_rows) {
  const cuuint64_t sizes[] = {static_cast<cuuint64_t>(columns), static_cast<cuuint64_t>(rows)};
  const cuuint64_t row_bytes[] = {static_cast<cuuint64_t>(columns) * 2};
  const cuuint32_t tile[] = {kTileColumns, static_cast<cuuint32_t>(tile_rows)};
  const cuuint32_t every[] = {1, 1};
  CUtensorMap map{};
  const CUresult status =
      encoder()(&map, CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, 2, const_cast<void*>(data), sizes, row_bytes, tile,
                every, CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B,
                CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  if (status != CUDA_SUCCESS)
    throw Error("CUDA: describing a matrix of " + std::to_string(rows) + " x " + std::to_string(columns) +
                " for tile copies: status " + std::to_string(status));
  return map;
}

}  // namespace penstock::cuda
