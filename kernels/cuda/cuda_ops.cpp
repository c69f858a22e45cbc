// Ops on a GPU: checks arguments and hands them to the kernels.
#include <algorithm>

#include "kernels/cpu/contract.h"
#include "kernels/cpu/number.h"
#include "kernels/cuda/attention.h"
#include "kernels/cuda/elementwise.h"
#include "kernels/cuda/fp8_matrix.h"
#include "kernels/cuda/fp8_product.h"
#include "kernels/cuda/gated.h"
#include "kernels/cuda/grouped_products.h"
#include "kernels/cuda/latent_attention.h"
#include "kernels/cuda/matmul.h"
#include "kernels/cuda/rope.h"
#include "kernels/cuda/rounding_sums.h"
#include "kernels/cuda/routing.h"
#include "kernels/cuda/row_draws.h"
#include "kernels/cuda/row_logits.h"
#include "runtime/device/cuda_device.h"
#include "runtime/model/kv_cache.h"

namespace penstock {
namespace {

using namespace cuda;

/// Scratch memory for what one call needs: the parts of split attention, and choosing matrix algorithms.
constexpr size_t kWorkspaceBytes = size_t{256} << 20;

class CudaOps final : public Ops {
 public:
  CudaOps(CudaDevice& device, const CudaProducts& products)
      : device_(device),
        gpu_{device.multiprocessors(), device.architecture() == "sm_90"},
        workspace_memory_(device.allocate(kWorkspaceBytes)),
        workspace_{workspace_memory_.get(), kWorkspaceBytes},
        any_sum_order_(products.any_sum_order),
        products_(device, workspace_, products),
        gated_(device, gpu_, workspace_, products_),
        grouped_(device, workspace_, gpu_),
        draws_(device),
        row_logits_(device),
        rounding_(device) {}

  std::string numerics() const override {
    return "cuda-3 " + device_.architecture() + " cublaslt-" + std::to_string(products_.library_version()) +
           (any_sum_order_ ? " any-sum-order" : "");
  }
  CacheRounding take_cache_rounding() override { return rounding_.take(); }
  /// A product's sums are rounded once, where they are used next: rounding them here too costs bfloat16
  /// models accuracy (a log-probability error of 0.12 against 0.10 in the conformance test) and saves no
  /// measurable time.
  DType projection_dtype(DType) const override { return DType::f32; }

  std::unique_ptr<Matrix> make_matrix(int64_t n, int64_t k, DType dtype) override {
    return std::make_unique<DenseMatrix>(device_, n, k, dtype);
  }

  void load_rows(Matrix& w, int64_t first_row, const TensorView& rows_rK) override {
    cpu::check_load_rows(w, first_row, rows_rK);
    const TensorView& to = dynamic_cast<DenseMatrix&>(w).view();
    const size_t size = bytes_of(to.dtype);
    char* const at = to.as<char>() + static_cast<size_t>(first_row * w.k()) * size;
    const int64_t count = rows_rK.shape.elements();
    if (rows_rK.dtype == to.dtype) {
      device_.upload(at, rows_rK.data, rows_rK.bytes());
      return;
    }
    converted_.resize(static_cast<size_t>(count) * size);
    for (int64_t i = 0; i < count; ++i)
      cpu::write(converted_.data(), to.dtype, i, cpu::read(rows_rK.data, rows_rK.dtype, i));
    device_.upload(at, converted_.data(), converted_.size());
  }

  std::unique_ptr<Matrix> make_fp8_matrix(int64_t n, int64_t k, DType dtype) override {
    return std::make_unique<Fp8Matrix>(device_, n, k, dtype);
  }
  void load_fp8_rows(Matrix& w, int64_t first_row, const TensorView& rows_rK,
                     const TensorView& scales_rB) override {
    cpu::check_load_fp8_rows(w, first_row, rows_rK, scales_rB);
    dynamic_cast<Fp8Matrix&>(w).load(device_, workspace_, first_row, rows_rK, scales_rB);
  }

  void embed(TensorView x_TD, const int32_t* ids_T, TensorView table_VD) override {
    cpu::check_embed(x_TD, table_VD);
    cuda::embed(device_.stream(), x_TD, ids_T, table_VD);
  }

  void rms_norm(TensorView y_TD, TensorView x_TD, TensorView weight_D, float eps) override {
    cpu::check_rms_norm(y_TD, x_TD, weight_D);
    cuda::rms_norm(device_.stream(), y_TD, x_TD, weight_D, eps);
  }

  void matmul(TensorView y_TN, TensorView x_TK, const Matrix& w_NK, TensorView bias_N, Into into) override {
    if (const auto* fp8 = dynamic_cast<const Fp8Matrix*>(&w_NK)) {
      const auto [m, n, k] = cpu::check_matmul(y_TN, x_TK, w_NK, fp8->dtype(), bias_N);
      const GroupedProblem all_rows{x_TK.data, y_TN.data, nullptr, nullptr, 1, m, n, k, k, 0, n, 0};
      fp8_product(
          device_.stream(),
          {all_rows, x_TK.dtype, y_TN.dtype, fp8->data(), bias_N.as<const float>(), into == Into::add},
          workspace_, gpu_);
      return;
    }
    const auto& w = dynamic_cast<const DenseMatrix&>(w_NK);
    cpu::check_matmul(y_TN, x_TK, w, w.view().dtype, bias_N);
    products_.multiply(y_TN, x_TK, w, bias_N, into);
  }

  void gated_matmul(TensorView y_TF, TensorView gate_up_T2F, TensorView x_TK, const Matrix& w_2FK,
                    TensorView bias_2F) override {
    if (dynamic_cast<const Fp8Matrix*>(&w_2FK) != nullptr) {
      Ops::gated_matmul(y_TF, gate_up_T2F, x_TK, w_2FK, bias_2F);
      return;
    }
    const auto& w = dynamic_cast<const DenseMatrix&>(w_2FK);
    cpu::check_matmul(gate_up_T2F, x_TK, w, w.view().dtype, bias_2F);
    cpu::check_swiglu(y_TF, gate_up_T2F);
    gated_.multiply(y_TF, gate_up_T2F, x_TK, w, bias_2F);
  }

  void rope_and_store(TensorView q_THd, KvCacheView cache, TensorView qkv_TN, const RotaryView& rotary,
                      const BatchView& batch) override {
    const cpu::HeadShape shape = cpu::check_rope(q_THd, cache, qkv_TN, rotary, batch);
    CacheRounding* const rounding = has_scales(cache.dtype) ? rounding_.on_device() : nullptr;
    cuda::rope_and_store(device_.stream(), q_THd, cache, qkv_TN, rotary, batch, shape.heads, rounding);
  }

  void attention(TensorView out_THd, TensorView q_THd, KvCacheView cache, const BatchView& batch,
                 float scale) override {
    const cpu::HeadShape checked = cpu::check_attention(out_THd, q_THd, cache, batch);
    const AttentionShape shape{checked.heads, checked.kv_heads, checked.dim};
    if (tensor_cores_serve(shape, q_THd.dtype, out_THd.dtype, cache.dtype))
      attention_tensor_cores(device_.stream(), out_THd, q_THd, cache, batch, shape, scale, workspace_, gpu_);
    else
      attention_plain(device_.stream(), out_THd, q_THd, cache, batch, shape, scale);
  }

  void latent_rope_and_store(TensorView q_THd, TensorView plain_THn, LatentCacheView cache, TensorView q_THe,
                             TensorView latent_TL, const LatentRotaryView& rotary,
                             const BatchView& batch) override {
    cpu::check_latent_rope(q_THd, plain_THn, cache, q_THe, latent_TL, rotary, batch);
    cuda::latent_rope_and_store(device_.stream(), q_THd, plain_THn, cache, q_THe, latent_TL, rotary, batch);
  }
  void latent_attention(TensorView out_THL, TensorView q_THd, LatentCacheView cache, const BatchView& batch,
                        float scale) override {
    cpu::check_latent_attention(out_THL, q_THd, cache, batch);
    if (latent_tensor_cores_serve(cache, out_THL.dtype, gpu_))
      latent_attention_tensor_cores(device_.stream(), out_THL, q_THd, cache, batch, scale, workspace_, gpu_);
    else
      latent_attention_plain(device_.stream(), out_THL, q_THd, cache, batch, scale);
  }
  void matmul_by_head(TensorView y_THy, TensorView x_THK, std::span<const Matrix* const> w_HNK) override {
    grouped_.by_head(y_THy, x_THK, w_HNK);
  }

  void route(const RoutingView& routing, TensorView logits_TE, const GateView& gate) override {
    cpu::check_route(routing, logits_TE, gate);
    cuda::route(device_.stream(), routing, logits_TE, gate);
  }

  void matmul_by_expert(TensorView y_SN, TensorView x_SK, std::span<const Matrix* const> w_ENK,
                        const RoutingView& routing) override {
    grouped_.by_expert(y_SN, x_SK, w_ENK, routing);
  }

  void gated_matmul_by_expert(TensorView y_SF, TensorView gate_up_S2F, TensorView x_SK,
                              std::span<const Matrix* const> w_E2FK, const RoutingView& routing) override {
    cpu::check_swiglu(y_SF, gate_up_S2F);
    grouped_.gated_by_expert(y_SF, gate_up_S2F, x_SK, w_E2FK, routing);
  }

  void combine_experts(TensorView x_TD, TensorView y_SD, const RoutingView& routing) override {
    cpu::check_combine_experts(x_TD, y_SD, routing);
    cuda::combine_experts(device_.stream(), x_TD, y_SD, routing);
  }

  void swiglu(TensorView y_TF, TensorView gate_up_T2F) override {
    cpu::check_swiglu(y_TF, gate_up_T2F);
    cuda::swiglu(device_.stream(), y_TF, gate_up_T2F);
  }

  void gather_rows(TensorView y_RD, TensorView x_TD, const int32_t* rows_R) override {
    cpu::check_gather_rows(y_RD, x_TD);
    cuda::gather_rows(device_.stream(), y_RD, x_TD, rows_R);
  }

  std::vector<Sampled> sample(TensorView logits_RV, std::span<const SampleParams> params_R) override {
    cpu::check_sample(logits_RV, params_R.size());
    if (params_R.empty()) return {};
    std::vector<int32_t> ruled;
    for (size_t r = 0; r < params_R.size(); ++r)
      if (params_R[r].has_rules()) ruled.push_back(static_cast<int32_t>(r));
    if (ruled.empty()) return draw(logits_RV, params_R);

    // Rows with rules are drawn from copies, a bounded number at once; here only their places are kept.
    std::vector<SampleParams> plain(params_R.begin(), params_R.end());
    for (const int32_t r : ruled) plain[static_cast<size_t>(r)] = {.temperature = 0};
    std::vector<Sampled> result = draw(logits_RV, plain);
    for (size_t first = 0; first < ruled.size(); first += RowLogits::kMostRuled)
      draw_with_rules(logits_RV, params_R,
                      std::span(ruled).subspan(first, std::min(RowLogits::kMostRuled, ruled.size() - first)),
                      result);
    return result;
  }

  /// Rows with rules are scored by what was drawn: the host waits for those.
  DrawingPtr start_sample(TensorView logits_RV, std::span<const SampleParams> params_R) override {
    const bool ruled =
        std::any_of(params_R.begin(), params_R.end(), [](const auto& p) { return p.has_rules(); });
    if (ruled || params_R.empty()) return Ops::start_sample(logits_RV, params_R);
    cpu::check_sample(logits_RV, params_R.size());
    return draws_.start(logits_RV, params_R);
  }

  std::vector<Sampled> score(TensorView logits_RV, std::span<const ScoreParams> params_R) override {
    cpu::check_sample(logits_RV, params_R.size());
    std::vector<RowToScore> rows;
    for (const ScoreParams& p : params_R)
      rows.push_back({static_cast<int32_t>(rows.size()), p.token, p.logprobs});
    return row_logits_.score(logits_RV, rows);
  }

 private:
  void draw_with_rules(TensorView logits_RV, std::span<const SampleParams> params_R,
                       std::span<const int32_t> rows_A, std::vector<Sampled>& result) {
    std::vector<SampleParams> params_A;
    for (const int32_t r : rows_A) {
      params_A.push_back(params_R[static_cast<size_t>(r)]);
      params_A.back().logprobs = -1;  // they are those of the raw logits
    }
    const std::vector<Sampled> drawn_A = draw(row_logits_.with_rules(logits_RV, rows_A, params_R), params_A);
    std::vector<RowToScore> to_score;
    for (size_t a = 0; a < rows_A.size(); ++a) {
      const auto r = static_cast<size_t>(rows_A[a]);
      result[r] = drawn_A[a];
      if (params_R[r].logprobs >= 0) to_score.push_back({rows_A[a], drawn_A[a].token, params_R[r].logprobs});
    }
    const std::vector<Sampled> scored = row_logits_.score(logits_RV, to_score);
    for (size_t s = 0; s < scored.size(); ++s) {
      Sampled& to = result[static_cast<size_t>(to_score[s].row)];
      to = scored[s];
      to.rank = 0;
    }
  }

  std::vector<Sampled> draw(TensorView logits_RV, std::span<const SampleParams> params_R) {
    return draws_.start(logits_RV, params_R)->take();
  }

  CudaDevice& device_;
  Gpu gpu_;
  DeviceMemory workspace_memory_;
  Workspace workspace_;
  bool any_sum_order_;
  MatrixProducts products_;
  GatedProducts gated_;
  GroupedProducts grouped_;
  RowDraws draws_;
  RowLogits row_logits_;
  RoundingSums rounding_;
  std::vector<char> converted_;
};

}  // namespace

std::unique_ptr<Ops> make_cuda_ops(Device& device, const CudaProducts& products) {
  return std::make_unique<CudaOps>(as_cuda(device), products);
}

}  // namespace penstock
