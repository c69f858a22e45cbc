// Ops on a GPU: checks arguments and hands them to the kernels.
#include <algorithm>
#include <cmath>

#include "kernels/cpu/contract.h"
#include "kernels/cpu/fp8_rows.h"
#include "kernels/cpu/number.h"
#include "kernels/cuda/attention.h"
#include "kernels/cuda/elementwise.h"
#include "kernels/cuda/latent_attention.h"
#include "kernels/cuda/matmul.h"
#include "kernels/cuda/rope.h"
#include "kernels/cuda/row_logits.h"
#include "kernels/cuda/sampling.h"
#include "kernels/sampling.h"
#include "runtime/device/cuda_device.h"

namespace penstock {
namespace {

using namespace cuda;

/// Scratch memory for what one call needs: the parts of split attention, and choosing matrix algorithms.
constexpr size_t kWorkspaceBytes = size_t{256} << 20;

/// Jobs are refused before they load anything (launch/job_options.cpp).
[[noreturn]] void refuse_latents_and_experts() {
  throw UsageError("latent attention and experts do not run on a GPU yet; use --device cpu");
}

class CudaOps final : public Ops {
 public:
  explicit CudaOps(CudaDevice& device)
      : device_(device),
        gpu_{device.multiprocessors(), device.architecture() == "sm_90"},
        workspace_memory_(device.allocate(kWorkspaceBytes)),
        workspace_{workspace_memory_.get(), kWorkspaceBytes},
        products_(device, workspace_),
        row_logits_(device) {}

  std::string numerics() const override {
    return "cuda-2 " + device_.architecture() + " cublaslt-" + std::to_string(products_.library_version());
  }
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
    return make_matrix(n, k, dtype);
  }
  void load_fp8_rows(Matrix& w, int64_t first_row, const TensorView& rows_rK,
                     const TensorView& scales_rB) override {
    cpu::check_load_fp8_rows(w, first_row, rows_rK, scales_rB);
    std::vector<float> values = cpu::dequantized(rows_rK, scales_rB);
    load_rows(w, first_row, {values.data(), DType::f32, rows_rK.shape});
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
    const auto& w = dynamic_cast<const DenseMatrix&>(w_NK);
    cpu::check_matmul(y_TN, x_TK, w, w.view().dtype, bias_N);
    products_.multiply(y_TN, x_TK, w, bias_N, into);
  }

  void rope_and_store(TensorView q_THd, KvCacheView cache, TensorView qkv_TN, const RotaryView& rotary,
                      const BatchView& batch) override {
    const cpu::HeadShape shape = cpu::check_rope(q_THd, cache, qkv_TN, rotary, batch);
    cuda::rope_and_store(device_.stream(), q_THd, cache, qkv_TN, rotary, batch, shape.heads);
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
  void matmul_by_head(TensorView, TensorView, std::span<const Matrix* const>) override {
    refuse_latents_and_experts();
  }
  void route(const RoutingView&, TensorView, const GateView&) override { refuse_latents_and_experts(); }
  void matmul_by_expert(TensorView, TensorView, std::span<const Matrix* const>, const RoutingView&) override {
    refuse_latents_and_experts();
  }
  void combine_experts(TensorView, TensorView, const RoutingView&) override { refuse_latents_and_experts(); }

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
    const size_t rows = params_R.size();
    size_t most_top = 0;
    to_draw_.clear();
    for (const SampleParams& p : params_R) {
      to_draw_.push_back({uniform_for(p), is_greedy(p) ? 0.0F : p.temperature, p.top_k, p.top_p,
                          std::isnan(p.min_p) ? 0.0F : std::min(p.min_p, 1.0F), p.logprobs});
      most_top = std::max(most_top, static_cast<size_t>(std::max(0, p.logprobs)));
    }
    most_top = std::min(most_top, static_cast<size_t>(logits_RV.dim(1)));

    // On the device: the rows to draw, the tokens drawn, the alternatives. The last two come back in one
    // piece.
    const size_t drawn_at = rows * sizeof(RowToDraw);
    const size_t top_at = drawn_at + rows * sizeof(DrawnToken);
    const size_t end = top_at + rows * most_top * sizeof(TokenLogprob);
    if (sample_room_ < end) {
      sample_memory_ = device_.allocate(2 * end);
      sample_room_ = 2 * end;
    }
    auto* const memory = static_cast<char*>(sample_memory_.get());
    device_.upload(memory, to_draw_.data(), drawn_at);
    sample_rows(device_.stream(), logits_RV, reinterpret_cast<const RowToDraw*>(memory),
                reinterpret_cast<DrawnToken*>(memory + drawn_at),
                reinterpret_cast<TokenLogprob*>(memory + top_at), static_cast<int64_t>(most_top));
    answer_.resize(end - drawn_at);
    device_.download(answer_.data(), memory + drawn_at, answer_.size());

    const auto* drawn_R = reinterpret_cast<const DrawnToken*>(answer_.data());
    const auto* top_RL = reinterpret_cast<const TokenLogprob*>(answer_.data() + (top_at - drawn_at));
    std::vector<Sampled> result(rows);
    for (size_t r = 0; r < rows; ++r) {
      const size_t wanted = std::min(most_top, static_cast<size_t>(std::max(0, params_R[r].logprobs)));
      const TokenLogprob* top_L = top_RL + r * most_top;
      result[r] = {drawn_R[r].token, drawn_R[r].logprob, {top_L, top_L + wanted}, 0};
    }
    return result;
  }

  CudaDevice& device_;
  Gpu gpu_;
  DeviceMemory workspace_memory_;
  Workspace workspace_;
  MatrixProducts products_;
  RowLogits row_logits_;
  std::vector<char> converted_;
  std::vector<RowToDraw> to_draw_;
  DeviceMemory sample_memory_;
  size_t sample_room_ = 0;
  std::vector<char> answer_;
};

}  // namespace

std::unique_ptr<Ops> make_cuda_ops(Device& device) {
  return std::make_unique<CudaOps>(as_cuda(device));
}

}  // namespace penstock
