// The host side of logits.cu: uploads what rows ask for, brings back what was found, and owns the memory for
// it.
#pragma once

#include <span>
#include <vector>

#include "kernels/cuda/logits.h"
#include "runtime/device/cuda_device.h"

namespace penstock::cuda {

/// One thread, that of the Ops.
class RowLogits {
 public:
  /// Rows whose rules are applied at once: so many rows of logits are kept beside the model's own.
  static constexpr size_t kMostRuled = 64;

  explicit RowLogits(CudaDevice& device) : device_(device) {}

  /// The rows of logits_RV with these numbers, at most kMostRuled, as their params' rules leave them. Valid
  /// until the next call.
  TensorView with_rules(TensorView logits_RV, std::span<const int32_t> rows_A,
                        std::span<const SampleParams> params_R);

  /// The score of each token asked for.
  std::vector<Sampled> score(TensorView logits_RV, std::span<const RowToScore> rows_S);

 private:
  char* room(size_t bytes);

  CudaDevice& device_;
  DeviceMemory memory_;
  size_t bytes_ = 0;
  Tensor ruled_AV_;
  std::vector<char> host_;
};

}  // namespace penstock::cuda
