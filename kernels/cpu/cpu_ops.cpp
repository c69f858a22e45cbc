// The fast CPU back end: checks what is asked, then hands it to the file of that operation.
#include "kernels/cpu/cpu_ops.h"

#include "kernels/cpu/attention.h"
#include "kernels/cpu/contract.h"
#include "kernels/cpu/experts.h"
#include "kernels/cpu/latent_attention.h"
#include "kernels/cpu/matmul.h"
#include "kernels/cpu/rows.h"
#include "kernels/cpu/sample.h"

namespace penstock {
namespace {

using namespace cpu;

class CpuOps final : public Ops {
 public:
  CpuOps(Device& device, int threads, const KernelTable& kernels)
      : device_(device),
        kernels_(kernels),
        team_(threads),
        multiply_(kernels_, team_),
        attend_(kernels_, team_),
        attend_latent_(kernels_, team_),
        samplers_(static_cast<size_t>(team_.size()), RowSampler(kernels_)),
        heads_(static_cast<size_t>(team_.size())),
        rounding_(static_cast<size_t>(team_.size())) {}

  /// The number grows whenever a kernel changes bits; the extent is part of attention's arithmetic.
  std::string numerics() const override {
    return std::string("cpu-") + kernels_.name + "-1-extent" + std::to_string(kExtent);
  }
  CacheRounding take_cache_rounding() override {
    CacheRounding all;
    for (CacheRounding& one : rounding_) {
      all.error += one.error;
      all.kept += one.kept;
      one = {};
    }
    return all;
  }
  DType projection_dtype(DType) const override { return DType::f32; }

  std::unique_ptr<Matrix> make_matrix(int64_t n, int64_t k, DType dtype) override {
    return std::make_unique<PackedMatrix>(device_, n, k, dtype);
  }
  void load_rows(Matrix& w, int64_t first_row, const TensorView& rows_rK) override {
    dynamic_cast<PackedMatrix&>(w).load_rows(team_, first_row, rows_rK);
  }
  std::unique_ptr<Matrix> make_fp8_matrix(int64_t n, int64_t k, DType dtype) override {
    return std::make_unique<PackedMatrix>(device_, n, k, dtype, PackedMatrix::Held::in_fp8);
  }
  void load_fp8_rows(Matrix& w, int64_t first_row, const TensorView& rows_rK,
                     const TensorView& scales_rB) override {
    dynamic_cast<PackedMatrix&>(w).load_fp8_rows(team_, first_row, rows_rK, scales_rB);
  }
  void embed(TensorView x_TD, const int32_t* ids_T, TensorView table_VD) override {
    check_embed(x_TD, table_VD);
    cpu::embed(kernels_, team_, x_TD, ids_T, table_VD);
  }
  void rms_norm(TensorView y_TD, TensorView x_TD, TensorView weight_D, float eps) override {
    check_rms_norm(y_TD, x_TD, weight_D);
    cpu::rms_norm(kernels_, team_, y_TD, x_TD, weight_D, eps);
  }
  void matmul(TensorView y_TN, TensorView x_TK, const Matrix& w_NK, TensorView bias_N, Into into) override {
    multiply_(y_TN, x_TK, dynamic_cast<const PackedMatrix&>(w_NK), bias_N, into);
  }
  void gated_matmul(TensorView y_TF, TensorView gate_up_T2F, TensorView x_TK, const Matrix& w_2FK,
                    TensorView bias_2F) override {
    const auto& w = dynamic_cast<const PackedMatrix&>(w_2FK);
    check_matmul(gate_up_T2F, x_TK, w, w.dtype(), bias_2F);
    check_swiglu(y_TF, gate_up_T2F);
    if (gate_up_T2F.dtype == DType::f32 && multiply_.can_gate(x_TK.dim(0), w))
      multiply_.gated(y_TF, x_TK, w, bias_2F);
    else
      Ops::gated_matmul(y_TF, gate_up_T2F, x_TK, w_2FK, bias_2F);
  }
  void rope_and_store(TensorView q_THd, KvCacheView cache, TensorView qkv_TN, const RotaryView& rotary,
                      const BatchView& batch) override {
    const HeadShape shape = check_rope(q_THd, cache, qkv_TN, rotary, batch);
    cpu::rope_and_store(kernels_, team_, heads_, rounding_, shape, q_THd, cache, qkv_TN, rotary, batch);
  }
  void attention(TensorView out_THd, TensorView q_THd, KvCacheView cache, const BatchView& batch,
                 float scale) override {
    attend_(out_THd, q_THd, cache, batch, scale);
  }
  void latent_rope_and_store(TensorView q_THd, TensorView plain_THn, LatentCacheView cache, TensorView q_THe,
                             TensorView latent_TL, const LatentRotaryView& rotary,
                             const BatchView& batch) override {
    const LatentShape shape = check_latent_rope(q_THd, plain_THn, cache, q_THe, latent_TL, rotary, batch);
    cpu::latent_rope_and_store(kernels_, team_, heads_, rounding_, shape, q_THd, plain_THn, cache, q_THe,
                               latent_TL, rotary, batch);
  }
  void latent_attention(TensorView out_THL, TensorView q_THd, LatentCacheView cache, const BatchView& batch,
                        float scale) override {
    attend_latent_(out_THL, q_THd, cache, batch, scale);
  }
  void matmul_by_head(TensorView y_THy, TensorView x_THK, std::span<const Matrix* const> w_HNK) override {
    const DType dtype = dynamic_cast<const PackedMatrix&>(*w_HNK[0]).dtype();
    const auto [m, n, k, y_width] = check_matmul_by_head(y_THy, x_THK, w_HNK, dtype);
    const auto heads = static_cast<int64_t>(w_HNK.size());
    for (int64_t h = 0; h < heads; ++h) {
      char* y = y_THy.as<char>() + static_cast<size_t>(h * y_width) * bytes_of(y_THy.dtype);
      char* x = x_THK.as<char>() + static_cast<size_t>(h * k) * bytes_of(dtype);
      multiply_.multiply({y, y_THy.dtype, heads * y_width}, {x, dtype, heads * k}, m,
                         dynamic_cast<const PackedMatrix&>(*w_HNK[static_cast<size_t>(h)]), {},
                         Into::overwrite);
    }
  }
  void route(const RoutingView& routing, TensorView logits_TE, const GateView& gate) override {
    check_route(routing, logits_TE, gate);
    cpu::route(kernels_, team_, heads_, routing, logits_TE, gate);
  }
  void matmul_by_expert(TensorView y_SN, TensorView x_SK, std::span<const Matrix* const> w_ENK,
                        const RoutingView& routing) override {
    check_matmul_by_expert(y_SN, x_SK, w_ENK, routing);
    check_chosen_experts(w_ENK, routing);
    multiply_.by_expert(y_SN, x_SK, w_ENK, routing);
  }
  void combine_experts(TensorView x_TD, TensorView y_SD, const RoutingView& routing) override {
    check_combine_experts(x_TD, y_SD, routing);
    cpu::combine_experts(kernels_, team_, heads_, x_TD, y_SD, routing);
  }
  void swiglu(TensorView y_TF, TensorView gate_up_T2F) override {
    check_swiglu(y_TF, gate_up_T2F);
    cpu::swiglu(kernels_, team_, y_TF, gate_up_T2F);
  }
  void gather_rows(TensorView y_RD, TensorView x_TD, const int32_t* rows_R) override {
    check_gather_rows(y_RD, x_TD);
    cpu::gather_rows(team_, y_RD, x_TD, rows_R);
  }
  std::vector<Sampled> sample(TensorView logits_RV, std::span<const SampleParams> params_R) override {
    return for_rows(logits_RV, params_R);
  }
  std::vector<Sampled> score(TensorView logits_RV, std::span<const ScoreParams> params_R) override {
    return for_rows(logits_RV, params_R);
  }

 private:
  template <class Params>
  std::vector<Sampled> for_rows(const TensorView& logits_RV, std::span<const Params> params_R) {
    check_sample(logits_RV, params_R.size());
    const auto v = static_cast<size_t>(logits_RV.dim(1));
    std::vector<Sampled> sampled_R(params_R.size());
    team_.share(logits_RV.dim(0), 1, [&](int thread, int64_t begin, int64_t end) {
      for (auto r = static_cast<size_t>(begin); r < static_cast<size_t>(end); ++r)
        sampled_R[r] =
            samplers_[static_cast<size_t>(thread)]({logits_RV.as<const float>() + r * v, v}, params_R[r]);
    });
    return sampled_R;
  }

  Device& device_;
  const KernelTable& kernels_;
  Team team_;
  Multiplier multiply_;
  Attention attend_;
  LatentAttention attend_latent_;
  std::vector<RowSampler> samplers_;       // one a thread
  std::vector<std::vector<float>> heads_;  // scratch of operations on rows, one a thread
  std::vector<CacheRounding> rounding_;    // by thread
};

}  // namespace

std::unique_ptr<Ops> cpu::make_ops(Device& device, int threads, const KernelTable& kernels) {
  return std::make_unique<CpuOps>(device, threads, kernels);
}

std::unique_ptr<Ops> make_cpu_ops(Device& device, int threads) {
  return cpu::make_ops(device, threads, *cpu::available_kernels().front());
}

}  // namespace penstock
