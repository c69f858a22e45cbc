#include "kernels/cuda/grouped_products.h"

#include <algorithm>

#include "kernels/cpu/contract.h"
#include "kernels/cuda/elementwise.h"
#include "kernels/cuda/fp8_matrix.h"
#include "kernels/cuda/fp8_product.h"
#include "kernels/cuda/grouped_hopper.h"
#include "kernels/cuda/matmul.h"

namespace penstock::cuda {
namespace {

/// Groups with fewer rows are read sooner by many small blocks. From 24 expected rows on the large tiles of
/// wgmma were faster at every size measured (DeepSeek-V2-Lite's shapes, 128 to 4096 tokens).
constexpr int64_t kMostFewRows = 16;

bool in_fp8(std::span<const Matrix* const> weights) {
  return std::any_of(weights.begin(), weights.end(),
                     [](const Matrix* weight) { return dynamic_cast<const Fp8Matrix*>(weight) != nullptr; });
}

}  // namespace

template <class Weight>
const void* const* GroupedProducts::pointers(std::span<const Matrix* const> weights, int64_t n, int64_t k,
                                             DType dtype) {
  pointers_.clear();
  for (const Matrix* weight : weights) {
    if (weight == nullptr) {
      pointers_.push_back(nullptr);
      continue;
    }
    const auto& w = dynamic_cast<const Weight&>(*weight);
    ensure(w.dtype() == dtype && w.n() == n && w.k() == k,
           "the weights of a grouped product are of its shape and of its input's dtype");
    pointers_.push_back(w.data());
  }
  return arrays_.of(pointers_);
}

void GroupedProducts::multiply(const GroupedProblem& problem, DType weight, DType out) {
  if (gpu_.is_hopper && expected_rows(problem) > kMostFewRows && on_tensor_cores(problem, weight) &&
      grouped_hopper_serves(problem))
    grouped_product_hopper(device_.stream(), problem,
                           maps_.of(pointers_, problem.n, problem.k, problem.gated ? 2 : 1, kHopperColumns),
                           out, device_.free_multiprocessors());
  else
    grouped_product(device_.stream(), problem, weight, out);
}

GroupedProblem GroupedProducts::experts(TensorView y_SN, TensorView x_SK,
                                        std::span<const Matrix* const> w_ENK, const RoutingView& routing) {
  cpu::check_matmul_by_expert(y_SN, x_SK, w_ENK, routing);
  const int64_t n = y_SN.dim(1);
  const int64_t k = x_SK.dim(1);
  return {x_SK.data,
          y_SN.data,
          in_fp8(w_ENK) ? pointers<Fp8Matrix>(w_ENK, n, k, x_SK.dtype)
                        : pointers<DenseMatrix>(w_ENK, n, k, x_SK.dtype),
          routing.expert_start_E1,
          routing.experts,
          x_SK.dim(0),
          n,
          k,
          k,
          0,
          n,
          0};
}

void GroupedProducts::multiply_experts(const GroupedProblem& problem, std::span<const Matrix* const> weights,
                                       DType in, DType out) {
  if (in_fp8(weights))
    fp8_product(device_.stream(), {problem, in, out, nullptr, nullptr, false}, workspace_, gpu_);
  else
    multiply(problem, in, out);
}

void GroupedProducts::by_expert(TensorView y_SN, TensorView x_SK, std::span<const Matrix* const> w_ENK,
                                const RoutingView& routing) {
  multiply_experts(experts(y_SN, x_SK, w_ENK, routing), w_ENK, x_SK.dtype, y_SN.dtype);
}

void GroupedProducts::gated_by_expert(TensorView y_SF, TensorView gate_up_S2F, TensorView x_SK,
                                      std::span<const Matrix* const> w_E2FK, const RoutingView& routing) {
  GroupedProblem problem = experts(gate_up_S2F, x_SK, w_E2FK, routing);
  if (gate_up_S2F.dtype != DType::f32 || !on_tensor_cores(problem, x_SK.dtype) || in_fp8(w_E2FK)) {
    multiply_experts(problem, w_E2FK, x_SK.dtype, gate_up_S2F.dtype);
    swiglu(device_.stream(), y_SF, gate_up_S2F);
    return;
  }
  problem.gated = true;
  problem.y = y_SF.data;
  problem.y_row = y_SF.dim(1);
  multiply(problem, x_SK.dtype, y_SF.dtype);
}

void GroupedProducts::by_head(TensorView y_THy, TensorView x_THK, std::span<const Matrix* const> w_HNK) {
  const auto [m, n, k, y_width] = cpu::check_matmul_by_head(y_THy, x_THK, w_HNK, x_THK.dtype);
  const auto heads = static_cast<int64_t>(w_HNK.size());
  const GroupedProblem problem{x_THK.data,
                               y_THy.data,
                               pointers<DenseMatrix>(w_HNK, n, k, x_THK.dtype),
                               nullptr,
                               heads,
                               m,
                               n,
                               k,
                               heads * k,
                               k,
                               heads * y_width,
                               y_width};
  multiply(problem, x_THK.dtype, y_THy.dtype);
}

}  // namespace penstock::cuda
