#include "kernels/cuda/tensor_map.h"

#include <cuda_runtime_api.h>

#include <algorithm>
#include <iterator>
#include <string>

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

cuuint64_t size_of(int64_t elements) {
  return static_cast<cuuint64_t>(elements);
}

/// A bfloat16 tensor in device memory. `distances` are those of neighbours in all dimensions but the first,
/// in elements.
template <int kRank>
CUtensorMap describe(const void* data, const cuuint64_t (&sizes)[kRank],
                     const cuuint64_t (&distances)[kRank - 1], const cuuint32_t (&tile)[kRank]) {
  cuuint64_t bytes[kRank - 1];
  cuuint32_t every[kRank];
  std::transform(std::begin(distances), std::end(distances), bytes, [](cuuint64_t d) { return 2 * d; });
  std::fill_n(every, kRank, 1);
  CUtensorMap map{};
  const CUresult status =
      encoder()(&map, CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, kRank, const_cast<void*>(data), sizes, bytes, tile,
                every, CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B,
                CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  if (status != CUDA_SUCCESS)
    throw Error("CUDA: describing a matrix of " + std::to_string(sizes[kRank - 1]) + " x ... x " +
                std::to_string(sizes[0]) + " for tile copies: status " + std::to_string(status));
  return map;
}

}  // namespace

CUtensorMap map_tiles(const void* data, int64_t rows, int64_t columns, int tile_rows) {
  return describe<2>(data, {size_of(columns), size_of(rows)}, {size_of(columns)},
                     {kTileColumns, static_cast<cuuint32_t>(tile_rows)});
}

CUtensorMap map_weight(const void* data, int64_t n, int64_t k, int halves, int tile_rows) {
  const int64_t half = n / halves;
  return describe<4>(
      data, {size_of(k), 8, size_of(halves), size_of(half / 8)},
      {size_of(k), size_of(half * k), size_of(8 * k)},
      {kTileColumns, 8, static_cast<cuuint32_t>(halves), static_cast<cuuint32_t>(tile_rows / 8 / halves)});
}

}  // namespace penstock::cuda
