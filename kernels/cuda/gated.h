// Ops::gated_matmul on a GPU: a product and SwiGLU after it, or both in one kernel where one serves.
//
// The product's algorithm sets the bits (matmul.h). For each weight shape the fused kernels are first run
// on random input; if their bits are the same they may be used, and for every range of M it is where it is
// faster. So timing decides speed, never bits.
#pragma once

#include <map>
#include <utility>

#include "kernels/cuda/matmul.h"

namespace penstock::cuda {

class GatedProducts {
 public:
  /// `products` outlives this; both may use `workspace` while they choose, and what it held is lost then.
  GatedProducts(CudaDevice& device, const Gpu& gpu, Workspace workspace, MatrixProducts& products)
      : device_(device),
        gpu_(gpu),
        workspace_(workspace),
        products_(products),
        differs_(device.tensor(DType::i32, {1})) {}

  /// Arguments as in Ops::gated_matmul, already checked. The first call of a shape and range of M chooses and
  /// waits for the device; the others are asynchronous.
  void multiply(TensorView y_TF, TensorView gate_up_T2F, TensorView x_TK, const DenseMatrix& w_2FK,
                TensorView bias_2F);

 private:
  struct Choice {
    bool same_bits = false;
    std::map<int64_t, bool> fused_by_rows;  // key: the largest M of the range
  };
  void run_apart(TensorView y_TF, TensorView gate_up_T2F, TensorView x_TK, const DenseMatrix& w_2FK,
                 TensorView bias_2F);
  void run_fused(TensorView y_TF, TensorView x_TK, const DenseMatrix& w_2FK);
  bool same_bits(const DenseMatrix& w_2FK);
  bool fused_is_faster(TensorView y_TF, TensorView gate_up_T2F, TensorView x_TK, const DenseMatrix& w_2FK);

  CudaDevice& device_;
  Gpu gpu_;
  Workspace workspace_;
  MatrixProducts& products_;
  Tensor differs_;  // one number: whether two results were found to differ
  std::map<std::pair<int64_t, int64_t>, Choice> choices_;  // key: F, K
};

}  // namespace penstock::cuda
