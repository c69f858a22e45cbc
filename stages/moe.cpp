// Mixture of experts (DeepSeekMoE, 2024): each token takes the few experts its gate scores highest, and the
// shared one. Pairs of token and expert are sorted by expert, so that an expert's weights are read once for
// all its tokens; what the experts give is added up token by token, best expert first.
#include <algorithm>

#include "stages/experts.h"
#include "stages/parts.h"

namespace penstock {
namespace {

/// Pairs of more tokens than these are not worth the memory: an expert's weights are then read again.
constexpr int64_t kTokensAtOnce = 2048;

class Moe final : public Mlp {
 public:
  Moe(const BuildContext& context, const MoeConfig& config, const std::string& prefix)
      : ops_(context.ops),
        device_(context.device),
        config_(config),
        hidden_(context.config.hidden_size),
        dtype_(context.spec.dtype),
        projection_dtype_(context.ops.projection_dtype(context.spec.dtype)),
        experts_(context, config, prefix + "experts.") {
    gate_ED_ = load_matrix(context, {{prefix + "gate.weight", config.gate.experts}}, hidden_);
    if (config.gate.correction_bias)
      correction_E_ = load_vector(context, {{prefix + "gate.e_score_correction_bias", config.gate.experts}});
    if (config.shared_intermediate_size > 0)
      shared_ = make_dense_mlp(context, {config.shared_intermediate_size, config.shared_bias},
                               prefix + "shared_experts.");
    view_ = {config.gate.score == GateConfig::Score::sigmoid,
             config.gate.groups,
             config.gate.groups_kept,
             config.gate.two_best,
             correction_E_,
             config.gate.normalise,
             config.gate.scale};
    most_tokens_ = std::min(context.spec.max_tokens, kTokensAtOnce);
    routing_memory_ = device_.allocate(
        RoutingView::bytes(most_tokens_, config.gate.experts_per_token, config.gate.experts));
  }

  size_t weight_bytes() const override {
    return gate_ED_->bytes() + (correction_E_ ? correction_E_.view.bytes() : 0) +
           (shared_ ? shared_->weight_bytes() : 0) + experts_.use().held_bytes;
  }
  ExpertUse expert_use() const override { return experts_.use(); }

  size_t scratch_bytes(int64_t tokens) const override {
    const int64_t most = std::min(tokens, most_tokens_);
    const int64_t pairs = most * config_.gate.experts_per_token;
    return Scratch::bytes_for(DType::f32, {most, config_.gate.experts}) +
           Scratch::bytes_for(dtype_, {pairs, hidden_}) +
           Scratch::bytes_for(projection_dtype_, {pairs, 2 * config_.intermediate_size}) +
           Scratch::bytes_for(dtype_, {pairs, config_.intermediate_size}) +
           Scratch::bytes_for(DType::f32, {pairs, hidden_}) + (shared_ ? shared_->scratch_bytes(tokens) : 0);
  }

  void forward(TensorView x_TD, TensorView h_TD, Scratch& scratch) override {
    if (shared_) shared_->forward(x_TD, h_TD, scratch);
    for (int64_t first = 0; first < h_TD.dim(0); first += most_tokens_) {
      const int64_t count = std::min(most_tokens_, h_TD.dim(0) - first);
      const size_t mark = scratch.mark();
      add_routed(x_TD.rows(first, count), h_TD.rows(first, count), scratch);
      scratch.reset_to(mark);
    }
  }

 private:
  void add_routed(TensorView x_TD, TensorView h_TD, Scratch& scratch) {
    const int64_t tokens = h_TD.dim(0);
    const int64_t pairs = tokens * config_.gate.experts_per_token;
    const int64_t width = config_.intermediate_size;
    const TensorView logits_TE = scratch.take(DType::f32, {tokens, config_.gate.experts});
    const TensorView h_SD = scratch.take(dtype_, {pairs, hidden_});
    const TensorView gate_up_S2F = scratch.take(projection_dtype_, {pairs, 2 * width});
    const TensorView y_SF = scratch.take(dtype_, {pairs, width});
    const TensorView y_SD = scratch.take(DType::f32, {pairs, hidden_});
    const RoutingView routing = RoutingView::over(routing_memory_.get(), tokens,
                                                  config_.gate.experts_per_token, config_.gate.experts);
    ops_.matmul(logits_TE, h_TD, *gate_ED_, {}, Into::overwrite);
    ops_.route(routing, logits_TE, view_);
    experts_.prepare(routing);
    ops_.gather_rows(h_SD, h_TD, routing.token_S);
    ops_.gated_matmul_by_expert(y_SF, gate_up_S2F, h_SD, experts_.gate_up(), routing);
    ops_.matmul_by_expert(y_SD, y_SF, experts_.down(), routing);
    ops_.combine_experts(x_TD, y_SD, routing);
  }

  Ops& ops_;
  Device& device_;
  MoeConfig config_;
  int64_t hidden_;
  DType dtype_;
  DType projection_dtype_;
  Experts experts_;
  int64_t most_tokens_ = 0;  // routed in one go
  std::unique_ptr<Matrix> gate_ED_;
  Tensor correction_E_;
  std::unique_ptr<Mlp> shared_;
  GateView view_;
  DeviceMemory routing_memory_;
};

}  // namespace

std::unique_ptr<Mlp> make_moe(const BuildContext& context, const MoeConfig& config,
                              const std::string& prefix) {
  return std::make_unique<Moe>(context, config, prefix);
}

}  // namespace penstock
