// A weight kept in FP8 E4M3 in device memory, as the kernels of fp8_product.h read it.
//
// Codes lie in tiles of 128 x 128, 16 KiB each: tile [row / 128][column / 128]. In a tile rows of 128 bytes
// follow one another, the 16-byte chunks of row r exchanged by r % 8 (hopper.cuh's swizzle), so that a tile,
// or some of its rows, is copied into shared memory in one piece. Behind all codes lies, in the same order of
// tiles, a float32 scale for each row of each tile: parts of a weight that are stacked (gate and up) need not
// begin at a multiple of 128. Codes of columns past K are zeros; rows past N hold nothing that is kept.
#pragma once

#include "kernels/cuda/attention.h"
#include "kernels/ops.h"
#include "runtime/device/cuda_device.h"

namespace penstock::cuda {

constexpr int kFp8Tile = 128;  // rows, and columns, of a tile

class Fp8Matrix final : public Matrix {
 public:
  /// To be multiplied with inputs of `dtype`, f32 or bf16.
  Fp8Matrix(Device& device, int64_t n, int64_t k, DType dtype);
  int64_t n() const override { return n_; }
  int64_t k() const override { return k_; }
  size_t bytes() const override { return bytes_; }
  DType dtype() const { return dtype_; }
  const void* data() const { return memory_.get(); }

  /// As Ops::load_fp8_rows, checked. `workspace` holds the rows while they are put in order.
  void load(CudaDevice& device, Workspace workspace, int64_t first_row, const TensorView& rows_rK,
            const TensorView& scales_rB);

 private:
  int64_t n_, k_;
  DType dtype_;
  size_t bytes_;
  DeviceMemory memory_;
};

}  // namespace penstock::cuda
