#include "kernels/cuda/matmul.h"

#include <algorithm>
#include <limits>
#include <string>

#include "kernels/cuda/elementwise.h"
#include "kernels/cuda/skinny.h"
#include "kernels/cuda/timing.h"

namespace penstock::cuda {
namespace {

constexpr int64_t kRowsThatSetBits = 256;
constexpr int64_t kCheckedRows = 64;
constexpr int kCandidates = 8;
constexpr size_t kAnyOrderBytes = size_t{32} << 20;
/// Milliseconds that timing a product alone does not show: on Hopper the skinny kernel begins to read its
/// weight while the kernel before it still runs.
constexpr float kSkinnyOverlap = 0.005F;

cudaDataType_t type_of(DType dtype) {
  return dtype == DType::bf16 ? CUDA_R_16BF : CUDA_R_32F;
}

size_t aligned(size_t bytes) {
  return (bytes + 255) / 256 * 256;
}

}  // namespace

int64_t range_end(int64_t m) {
  for (const int64_t end : {1, 4, 8, 16, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024, 2048, 4096})
    if (m <= end) return end;
  return std::numeric_limits<int64_t>::max();
}

/// Descriptions of y^T = w x^T, which is what y = x w^T is to a library that counts columns first.
class MatrixProducts::Problem {
 public:
  Problem(const CublasLt& library, const Kind& kind, int64_t m, const void* bias)
      : library_(library),
        description_(nullptr, library.end_description),
        w_(layout(kind.weight, kind.k, kind.n)),
        x_(layout(kind.weight, kind.k, m)),
        y_(layout(kind.out, kind.n, m)) {
    cublasLtMatmulDesc_t description = nullptr;
    check(library.make_description(&description, CUBLAS_COMPUTE_32F, CUDA_R_32F), "describe a product");
    description_.reset(description);
    set(CUBLASLT_MATMUL_DESC_TRANSA, CUBLAS_OP_T);
    if (!kind.bias) return;
    set(CUBLASLT_MATMUL_DESC_EPILOGUE, CUBLASLT_EPILOGUE_BIAS);
    set(CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE, type_of(kind.out));
    set(CUBLASLT_MATMUL_DESC_BIAS_POINTER, bias);
  }
  cublasLtMatmulDesc_t description() const { return description_.get(); }
  cublasLtMatrixLayout_t w() const { return w_.get(); }
  cublasLtMatrixLayout_t x() const { return x_.get(); }
  cublasLtMatrixLayout_t y() const { return y_.get(); }

 private:
  template <class Pointer>
  using Owned = std::unique_ptr<std::remove_pointer_t<Pointer>, cublasStatus_t (*)(Pointer)>;

  Owned<cublasLtMatrixLayout_t> layout(DType dtype, int64_t rows, int64_t columns) const {
    cublasLtMatrixLayout_t made = nullptr;
    check(library_.make_layout(&made, type_of(dtype), static_cast<uint64_t>(rows),
                               static_cast<uint64_t>(columns), rows),
          "describe a matrix");
    return {made, library_.end_layout};
  }
  template <class T>
  void set(cublasLtMatmulDescAttributes_t attribute, const T& value) {
    check(library_.set_description(description_.get(), attribute, &value, sizeof value),
          "describe a product");
  }

  const CublasLt& library_;
  Owned<cublasLtMatmulDesc_t> description_;
  Owned<cublasLtMatrixLayout_t> w_;
  Owned<cublasLtMatrixLayout_t> x_;
  Owned<cublasLtMatrixLayout_t> y_;
};

MatrixProducts::MatrixProducts(CudaDevice& device, Workspace workspace, const CudaProducts& choice)
    : device_(device),
      is_hopper_(device.architecture() == "sm_90"),
      workspace_(workspace),
      differs_(device.tensor(DType::i32, {1})) {
  if (choice.any_sum_order) any_order_memory_ = device.allocate(kAnyOrderBytes);
  if (!choice.file.empty())
    file_.emplace(choice.file, "penstock products 1, cuBLASLt " + std::to_string(library_.version()) + ", " +
                                   device.model() + (choice.any_sum_order ? ", any sum order" : ""));
}

void MatrixProducts::multiply(TensorView y_TN, TensorView x_TK, const DenseMatrix& w_NK, TensorView bias_N,
                              Into into) {
  const int64_t m = y_TN.dim(0);
  if (m == 0) return;
  const Kind kind{w_NK.n(),         w_NK.k(), w_NK.view().dtype, y_TN.dtype, bias_N.data != nullptr,
                  into == Into::add};
  Operands operands{y_TN.data, x_TK.data, w_NK.view().data, bias_N.data};
  if (kind.bias && kind.out == DType::bf16) {  // cuBLASLt wants the bias in the dtype of the output
    if (bias_room_ < kind.n) {
      bias_bf16_ = device_.allocate(static_cast<size_t>(kind.n) * bytes_of(DType::bf16));
      bias_room_ = kind.n;
    }
    round_to_bf16(device_.stream(), bias_bf16_.get(), bias_N.as<const float>(), kind.n);
    operands.bias = bias_bf16_.get();
  }
  Choice& choice = choices_[kind];
  const int64_t range = range_end(m);
  auto at = choice.by_rows.find(range);
  if (at == choice.by_rows.end()) at = choice.by_rows.emplace(range, choose(kind, m, operands, choice)).first;
  cublasStatus_t status = run(kind, m, operands, at->second);
  if (status == CUBLAS_STATUS_NOT_SUPPORTED || status == CUBLAS_STATUS_INVALID_VALUE) {
    at->second = *choice.sets_bits;  // chosen for another M of the range
    status = run(kind, m, operands, at->second);
  }
  check(status, "multiply");
}

std::vector<MatrixProducts::Algorithm> MatrixProducts::candidates(const Kind& kind, int64_t m) {
  const Problem problem(library_, kind, m, nullptr);
  cublasLtMatmulPreference_t made = nullptr;
  check(library_.make_preference(&made), "state a preference");
  const std::unique_ptr<std::remove_pointer_t<cublasLtMatmulPreference_t>, decltype(library_.end_preference)>
      preference(made, library_.end_preference);
  const auto prefer = [&](cublasLtMatmulPreferenceAttributes_t attribute, const auto& value) {
    check(library_.set_preference(made, attribute, &value, sizeof value), "state a preference");
  };
  const bool any_order = any_order_memory_ != nullptr;
  prefer(CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK,
         static_cast<uint32_t>(any_order ? CUBLASLT_REDUCTION_SCHEME_MASK : CUBLASLT_REDUCTION_SCHEME_NONE));
  prefer(CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, uint64_t{any_order ? kAnyOrderBytes : 0});
  cublasLtMatmulHeuristicResult_t results[kCandidates];
  int found = 0;
  library_.heuristic(library_.handle(), problem.description(), problem.w(), problem.x(), problem.y(),
                     problem.y(), made, kCandidates, results, &found);
  std::vector<Algorithm> kept;
  if (!kind.bias && skinny_serves(m, kind.n, kind.k, kind.weight)) kept.push_back({true, {}});
  for (int i = 0; i < found; ++i) {
    if (results[i].state != CUBLAS_STATUS_SUCCESS) continue;
    if (any_order) {
      kept.push_back({false, results[i].algo});
      continue;
    }
    if (results[i].workspaceSize != 0) continue;
    int32_t split = 1;
    uint32_t scheme = CUBLASLT_REDUCTION_SCHEME_NONE;
    check(library_.algorithm_attribute(&results[i].algo, CUBLASLT_ALGO_CONFIG_SPLITK_NUM, &split,
                                       sizeof split, nullptr),
          "read an algorithm");
    check(library_.algorithm_attribute(&results[i].algo, CUBLASLT_ALGO_CONFIG_REDUCTION_SCHEME, &scheme,
                                       sizeof scheme, nullptr),
          "read an algorithm");
    if (split <= 1 && scheme == CUBLASLT_REDUCTION_SCHEME_NONE) kept.push_back({false, results[i].algo});
  }
  return kept;
}

cublasStatus_t MatrixProducts::run(const Kind& kind, int64_t m, const Operands& operands,
                                   const Algorithm& algorithm) {
  if (algorithm.skinny) {
    (is_hopper_ ? skinny_product_on_hopper : skinny_product)(
        device_.stream(), operands.y, kind.out, operands.x, operands.w, m, kind.n, kind.k, kind.add);
    return CUBLAS_STATUS_SUCCESS;
  }
  const Problem problem(library_, kind, m, operands.bias);
  const float one = 1;
  const float beta = kind.add ? 1 : 0;
  return library_.matmul(library_.handle(), problem.description(), &one, operands.w, problem.w(), operands.x,
                         problem.x(), &beta, operands.y, problem.y(), operands.y, problem.y(),
                         &algorithm.cublaslt, any_order_memory_.get(), any_order_memory_ ? kAnyOrderBytes : 0,
                         device_.stream());
}

/// Whether two algorithms give m rows of random input the same bits. The output starts from zeros in both, so
/// that an addition can be compared too.
bool MatrixProducts::same_bits(const Kind& kind, int64_t m, const Operands& operands, const Algorithm& a,
                               const Algorithm& b) {
  const size_t x_bytes = aligned(static_cast<size_t>(m * kind.k) * bytes_of(kind.weight));
  const size_t y_bytes = aligned(static_cast<size_t>(m * kind.n) * bytes_of(kind.out));
  if (x_bytes + 2 * y_bytes > workspace_.bytes) return false;
  auto* x = static_cast<char*>(workspace_.data);
  fill_random(device_.stream(), {x, kind.weight, {m, kind.k}});
  char* const y[2] = {x + x_bytes, x + x_bytes + y_bytes};
  check(cudaMemsetAsync(y[0], 0, 2 * y_bytes, device_.stream()), "clear memory");
  if (run(kind, m, {y[0], x, operands.w, operands.bias}, a) != CUBLAS_STATUS_SUCCESS) return false;
  if (run(kind, m, {y[1], x, operands.w, operands.bias}, b) != CUBLAS_STATUS_SUCCESS) return false;
  return cuda::same_bits(device_, differs_, y[0], y[1], y_bytes);
}

/// Whether one algorithm gives the first 1 and 7 of kCheckedRows rows the same bits alone as together.
bool MatrixProducts::rows_are_independent(const Kind& kind, const Operands& operands,
                                          const Algorithm& algorithm) {
  const size_t x_bytes = aligned(static_cast<size_t>(kCheckedRows * kind.k) * bytes_of(kind.weight));
  const size_t row_bytes = static_cast<size_t>(kind.n) * bytes_of(kind.out);
  const size_t y_bytes = aligned(kCheckedRows * row_bytes);
  if (x_bytes + 2 * y_bytes > workspace_.bytes)
    throw Error("choosing how to multiply by a matrix of " + Shape{kind.n, kind.k}.text() + " takes " +
                std::to_string((x_bytes + 2 * y_bytes) >> 20) + " MiB of workspace, found " +
                std::to_string(workspace_.bytes >> 20) + " MiB");
  auto* x = static_cast<char*>(workspace_.data);
  fill_random(device_.stream(), {x, kind.weight, {kCheckedRows, kind.k}});
  char* const all = x + x_bytes;
  char* const some = all + y_bytes;
  check(cudaMemsetAsync(all, 0, y_bytes, device_.stream()), "clear memory");
  if (run(kind, kCheckedRows, {all, x, operands.w, operands.bias}, algorithm) != CUBLAS_STATUS_SUCCESS)
    return false;
  for (const int64_t m : {1, 7}) {
    check(cudaMemsetAsync(some, 0, y_bytes, device_.stream()), "clear memory");
    if (run(kind, m, {some, x, operands.w, operands.bias}, algorithm) != CUBLAS_STATUS_SUCCESS) return false;
    if (!cuda::same_bits(device_, differs_, all, some, static_cast<size_t>(m) * row_bytes)) return false;
  }
  return true;
}

/// Infinite where the workspace cannot hold the output.
float MatrixProducts::milliseconds(const Kind& kind, int64_t m, const Operands& operands,
                                   const Algorithm& algorithm) {
  if (static_cast<size_t>(m * kind.n) * bytes_of(kind.out) > workspace_.bytes)
    return std::numeric_limits<float>::infinity();
  const Operands scratch{workspace_.data, operands.x, operands.w, operands.bias};
  const float alone = shortest_run(device_, workspace_,
                                   [&] { return run(kind, m, scratch, algorithm) == CUBLAS_STATUS_SUCCESS; });
  return algorithm.skinny && is_hopper_ ? alone - kSkinnyOverlap : alone;
}

void MatrixProducts::choose_bits(const Kind& kind, const Operands& operands, Choice& choice) {
  for (const Algorithm& algorithm : candidates(kind, kRowsThatSetBits))
    if (any_order_memory_ || rows_are_independent(kind, operands, algorithm)) {
      choice.sets_bits = std::make_unique<Algorithm>(algorithm);
      return;
    }
  throw Error("cuBLASLt has no algorithm for a " + std::string(name_of(kind.weight)) + " weight of " +
              Shape{kind.n, kind.k}.text() + " whose rows do not depend on how many share a call");
}

MatrixProducts::Algorithm MatrixProducts::choose(const Kind& kind, int64_t m, const Operands& operands,
                                                 Choice& choice) {
  if (!choice.sets_bits) choose_bits(kind, operands, choice);
  const int64_t checked = std::min(m, kCheckedRows);
  const auto admitted = [&](const Algorithm& algorithm) {
    if (algorithm.skinny && (kind.bias || !skinny_serves(m, kind.n, kind.k, kind.weight))) return false;
    return any_order_memory_ != nullptr || same_bits(kind, checked, operands, *choice.sets_bits, algorithm);
  };
  if (file_)
    if (const auto known = file_->find(kind, range_end(m)); known && admitted(*known)) return *known;
  Algorithm best = *choice.sets_bits;
  float best_time = milliseconds(kind, m, operands, best);
  bool timed = best_time < std::numeric_limits<float>::infinity();
  for (const Algorithm& algorithm : candidates(kind, m)) {
    if (!admitted(algorithm)) continue;
    const float time = milliseconds(kind, m, operands, algorithm);
    if (timed ? time < best_time : true) {
      best = algorithm;
      best_time = time;
      if (!timed) break;  // too large to be timed in the workspace: the heuristics' own first choice
    }
  }
  if (file_) file_->add(kind, range_end(m), best);
  return best;
}

}  // namespace penstock::cuda
