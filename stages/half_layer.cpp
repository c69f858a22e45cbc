#include "stages/parts.h"

namespace penstock {
namespace {

// Where a kind named in the configuration becomes the code that runs it.
struct MakeAttention {
  const BuildContext& context;
  std::string prefix;
  const Tensor& cos_sin_P2r;
  std::unique_ptr<Attention> operator()(const GqaConfig& gqa) const {
    return make_gqa(context, gqa, prefix, cos_sin_P2r);
  }
  std::unique_ptr<Attention> operator()(const MlaConfig& mla) const {
    return make_mla(context, mla, prefix, cos_sin_P2r);
  }
};

struct MakeMlp {
  const BuildContext& context;
  std::string prefix;
  std::unique_ptr<Mlp> operator()(const DenseMlpConfig& dense) const {
    return make_dense_mlp(context, dense, prefix);
  }
  std::unique_ptr<Mlp> operator()(const MoeConfig& moe) const { return make_moe(context, moe, prefix); }
};

}  // namespace

HalfLayer::HalfLayer(const BuildContext& context, int64_t half, const Tensor& cos_sin_P2r)
    : ops_(context.ops), dtype_(context.spec.dtype), eps_(context.config.rms_norm_eps) {
  const LayerConfig& config = context.config.layers.at(static_cast<size_t>(half / 2));
  const std::string prefix = "model.layers." + std::to_string(half / 2) + ".";
  const char* const norm = half % 2 == 0 ? "input_layernorm.weight" : "post_attention_layernorm.weight";
  norm_D_ = load_vector(context, {{prefix + norm, context.config.hidden_size}});
  if (half % 2 == 0)
    attention_ = std::visit(MakeAttention{context, prefix + "self_attn.", cos_sin_P2r}, config.attention);
  else
    mlp_ = std::visit(MakeMlp{context, prefix + "mlp."}, config.mlp);
}

size_t HalfLayer::weight_bytes() const {
  return norm_D_.view.bytes() + (attention_ ? attention_->weight_bytes() : mlp_->weight_bytes());
}

size_t HalfLayer::scratch_bytes(int64_t tokens) const {
  return Scratch::bytes_for(dtype_, {tokens, norm_D_.view.dim(0)}) +
         (attention_ ? attention_->scratch_bytes(tokens) : mlp_->scratch_bytes(tokens));
}

void HalfLayer::forward(TensorView x_TD, const BatchView& batch, Scratch& scratch) {
  scratch.reset();
  const TensorView h_TD = scratch.take(dtype_, x_TD.shape);
  ops_.rms_norm(h_TD, x_TD, norm_D_, eps_);
  if (attention_)
    attention_->forward(x_TD, h_TD, batch, scratch);
  else
    mlp_->forward(x_TD, h_TD, scratch);
}

}  // namespace penstock
