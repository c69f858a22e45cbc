#include <algorithm>

#include "kernels/cuda/fp8_matrix.h"
#include "kernels/cuda/fp8_tile.cuh"

namespace penstock::cuda {
namespace {

constexpr int kThreads = 256;

/// Rows [first, first + rows) of a weight from row-major codes and scales: one thread a chunk of 16 codes,
/// and one of them a scale.
__global__ void arrange(unsigned char* to_codes, float* to_scales, const unsigned char* codes_rK,
                        const float* scales_rB, int64_t first, int64_t rows, int64_t k, int64_t blocks) {
  constexpr int kChunks = kFp8Tile / 16;
  const int64_t at = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (at >= rows * blocks * kChunks) return;
  const int chunk = static_cast<int>(at % kChunks);
  const int64_t block = at / kChunks % blocks, r = at / kChunks / blocks;
  const int64_t tile = (first + r) / kFp8Tile * blocks + block;
  const int row = static_cast<int>((first + r) % kFp8Tile);
  unsigned char* const to = to_codes + tile * kFp8TileBytes + fp8_chunk(row, chunk);
  for (int i = 0; i < 16; ++i) {
    const int64_t column = block * kFp8Tile + chunk * 16 + i;
    to[i] = column < k ? codes_rK[r * k + column] : 0;
  }
  if (chunk == 0) to_scales[tile * kFp8Tile + row] = scales_rB[r * blocks + block];
}

}  // namespace

Fp8Matrix::Fp8Matrix(Device& device, int64_t n, int64_t k, DType dtype)
    : n_(n),
      k_(k),
      dtype_(dtype),
      bytes_(static_cast<size_t>(fp8_tiles(n) * fp8_tiles(k)) * (kFp8TileBytes + kFp8Tile * sizeof(float))),
      memory_(device.allocate(bytes_)) {}

void Fp8Matrix::load(CudaDevice& device, Workspace workspace, int64_t first_row, const TensorView& rows_rK,
                     const TensorView& scales_rB) {
  const int64_t blocks = fp8_tiles(k_);
  const int64_t row_bytes = blocks * static_cast<int64_t>(sizeof(float)) + k_;
  const int64_t at_once = std::max<int64_t>(1, static_cast<int64_t>(workspace.bytes) / row_bytes);
  auto* const codes = static_cast<unsigned char*>(memory_.get());
  auto* const scales = reinterpret_cast<float*>(codes + fp8_tiles(n_) * blocks * kFp8TileBytes);
  for (int64_t r = 0; r < rows_rK.dim(0); r += at_once) {
    const int64_t rows = std::min(at_once, rows_rK.dim(0) - r);
    auto* const from_scales = static_cast<float*>(workspace.data);
    auto* const from_codes = reinterpret_cast<unsigned char*>(from_scales + rows * blocks);
    const TensorView some = rows_rK.rows(r, rows), their_scales = scales_rB.rows(r, rows);
    device.upload(from_scales, their_scales.data, their_scales.bytes());
    device.upload(from_codes, some.data, some.bytes());
    const int64_t chunks = rows * blocks * (kFp8Tile / 16);
    arrange<<<static_cast<unsigned>((chunks + kThreads - 1) / kThreads), kThreads, 0, device.stream()>>>(
        codes, scales, from_codes, from_scales, first_row + r, rows, k_, blocks);
    check_launch("arrange an FP8 weight");
  }
}

}  // namespace penstock::cuda
