// The products of Ops that multiply by many weights at once: by expert and by head. Driven by the device's
// thread.
#pragma once

#include <span>
#include <vector>

#include "kernels/cuda/attention.h"
#include "kernels/cuda/grouped.h"
#include "kernels/cuda/pointer_arrays.h"
#include "kernels/ops.h"
#include "runtime/device/cuda_device.h"

namespace penstock::cuda {

class GroupedProducts {
 public:
  /// `workspace` is scratch memory for one call.
  GroupedProducts(CudaDevice& device, Workspace workspace, const Gpu& gpu)
      : device_(device), workspace_(workspace), gpu_(gpu), arrays_(device), maps_(device) {}

  /// Arguments as in Ops. Asynchronous; the first call with a set of weights must not be recorded.
  void by_expert(TensorView y_SN, TensorView x_SK, std::span<const Matrix* const> w_ENK,
                 const RoutingView& routing);
  void gated_by_expert(TensorView y_SF, TensorView gate_up_S2F, TensorView x_SK,
                       std::span<const Matrix* const> w_E2FK, const RoutingView& routing);
  void by_head(TensorView y_THy, TensorView x_THK, std::span<const Matrix* const> w_HNK);

 private:
  GroupedProblem experts(TensorView y_SN, TensorView x_SK, std::span<const Matrix* const> w_ENK,
                         const RoutingView& routing);
  /// Device memory with where the weights lie, all of them n x k for inputs of this dtype, or null. Leaves
  /// the same in pointers_.
  template <class Weight>
  const void* const* pointers(std::span<const Matrix* const> weights, int64_t n, int64_t k, DType dtype);
  /// By the weights of experts, which may be kept in FP8.
  void multiply_experts(const GroupedProblem& problem, std::span<const Matrix* const> weights, DType in,
                        DType out);
  /// By the weights in pointers_.
  void multiply(const GroupedProblem& problem, DType weight, DType out);

  CudaDevice& device_;
  Workspace workspace_;
  Gpu gpu_;
  PointerArrays arrays_;
  WeightMaps maps_;
  std::vector<const void*> pointers_;
};

}  // namespace penstock::cuda
