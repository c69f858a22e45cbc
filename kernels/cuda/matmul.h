// Matrix products through cuBLASLt, such that a row's bits do not depend on how many rows share the call.
//
// One algorithm of each kind of product sets the bits: the first that cuBLASLt's heuristics name for 256
// rows, with split-K, reductions across blocks and workspaces (which stream-K needs) excluded, and whose rows
// are seen to be the same for 1, 7 and 64 rows. For every range of M the candidates that the heuristics name
// are then run on random input; those with the same bits may be used, and the fastest of them is. So timing
// decides speed, never bits. For few rows the kernel of skinny.h is one more candidate. What a file of
// earlier choices proposes is checked for its bits too. A benchmark may have all this left out
// (CudaProducts).
#pragma once

#include <map>
#include <memory>
#include <optional>
#include <tuple>
#include <vector>

#include "kernels/cuda/algorithm_file.h"
#include "kernels/cuda/attention.h"
#include "kernels/cuda/cublaslt.h"
#include "kernels/ops.h"
#include "runtime/device/cuda_device.h"

namespace penstock::cuda {

/// A row-major N x K weight, as checkpoints have it.
class DenseMatrix final : public Matrix {
 public:
  DenseMatrix(Device& device, int64_t n, int64_t k, DType dtype) : tensor_(device.tensor(dtype, {n, k})) {}
  int64_t n() const override { return tensor_.view.dim(0); }
  int64_t k() const override { return tensor_.view.dim(1); }
  size_t bytes() const override { return tensor_.view.bytes(); }
  DType dtype() const { return tensor_.view.dtype; }
  const void* data() const { return tensor_.view.data; }
  const TensorView& view() const { return tensor_.view; }

 private:
  Tensor tensor_;
};

/// The end of the range of M in which one algorithm serves.
int64_t range_end(int64_t m);

class MatrixProducts {
 public:
  /// `workspace` serves as scratch memory while algorithms are chosen; whatever it held is lost then.
  MatrixProducts(CudaDevice& device, Workspace workspace, const CudaProducts& choice);

  /// Arguments as in Ops::matmul, already checked. The first call of a kind and range of M chooses an
  /// algorithm and waits for the device; the others are asynchronous.
  void multiply(TensorView y_TN, TensorView x_TK, const DenseMatrix& w_NK, TensorView bias_N, Into into);

  size_t library_version() const { return library_.version(); }

 private:
  using Algorithm = ProductAlgorithm;
  using Kind = ProductKind;
  struct Choice {
    std::unique_ptr<Algorithm> sets_bits;
    std::map<int64_t, Algorithm> by_rows;  // key: the largest M of the range
  };
  /// The pointers of one product.
  struct Operands {
    void* y;
    const void* x;
    const void* w;
    const void* bias;
  };

  class Problem;
  std::vector<Algorithm> candidates(const Kind& kind, int64_t m);
  cublasStatus_t run(const Kind& kind, int64_t m, const Operands& operands, const Algorithm& algorithm);
  bool same_bits(const Kind& kind, int64_t m, const Operands& operands, const Algorithm& a,
                 const Algorithm& b);
  bool rows_are_independent(const Kind& kind, const Operands& operands, const Algorithm& algorithm);
  float milliseconds(const Kind& kind, int64_t m, const Operands& operands, const Algorithm& algorithm);
  void choose_bits(const Kind& kind, const Operands& operands, Choice& choice);
  Algorithm choose(const Kind& kind, int64_t m, const Operands& operands, Choice& choice);

  CudaDevice& device_;
  bool is_hopper_;
  CublasLt library_;
  Workspace workspace_;
  DeviceMemory any_order_memory_;  // for algorithms that add up in any order; null where none may
  std::optional<AlgorithmFile> file_;
  Tensor differs_;          // one number: whether two results were found to differ
  DeviceMemory bias_bf16_;  // room for a bias that was rounded for a bf16 output
  int64_t bias_room_ = 0;
  std::map<Kind, Choice> choices_;
};

}  // namespace penstock::cuda
