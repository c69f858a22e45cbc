// The host side of sampling.cu: uploads how rows are drawn from, and brings back what was drawn without
// making the host wait.
#pragma once

#include <memory>
#include <span>
#include <vector>

#include "kernels/cuda/sampling.h"
#include "kernels/ops.h"
#include "runtime/device/cuda_device.h"

namespace penstock::cuda {

/// Pinned memory for what is on its way back, used again and again. Each piece is made as large as any before
/// it: a piece that must grow lets go of its memory, for which the driver waits until the device is idle.
class PinnedPool {
 public:
  struct Piece {
    PinnedMemory memory;
    size_t bytes = 0;
  };
  Piece take(size_t bytes);
  void give_back(Piece piece) { free_.push_back(std::move(piece)); }

 private:
  std::vector<Piece> free_;
  size_t most_bytes_ = 0;
};

/// One thread, that of the Ops.
class RowDraws {
 public:
  explicit RowDraws(CudaDevice& device) : device_(device) {}

  /// One token for each row by its params; rules are not looked at. There is at least one.
  DrawingPtr start(TensorView logits_RV, std::span<const SampleParams> params_R);

 private:
  CudaDevice& device_;
  std::vector<RowToDraw> to_draw_;
  DeviceMemory memory_;
  size_t room_ = 0;
  PinnedPool pinned_;
};

}  // namespace penstock::cuda
