// Grouped-query attention (Ainslie et al. 2023) over the paged cache, with rotary positions.
#include <cmath>

#include "runtime/model/kv_cache.h"
#include "stages/parts.h"

namespace penstock {
namespace {

class Gqa final : public Attention {
 public:
  Gqa(const BuildContext& context, const GqaConfig& config, const std::string& prefix,
      const Tensor& cos_sin_P2r)
      : device_(context.device),
        ops_(context.ops),
        config_(config),
        dtype_(context.spec.dtype),
        projection_dtype_(context.ops.projection_dtype(context.spec.dtype)),
        scale_(1.0F / std::sqrt(static_cast<float>(config.head_dim))),
        cos_sin_P2r_(cos_sin_P2r) {
    const int64_t hidden = context.config.hidden_size;
    const int64_t kv_width = config.kv_heads * config.head_dim;
    const auto qkv = [&](const char* what) {
      return std::vector<WeightPart>{{prefix + "q_proj." + what, q_width()},
                                     {prefix + "k_proj." + what, kv_width},
                                     {prefix + "v_proj." + what, kv_width}};
    };
    qkv_ND_ = load_matrix(context, qkv("weight"), hidden);
    if (config.qkv_bias) qkv_bias_N_ = load_vector(context, qkv("bias"));
    output_DN_ = load_matrix(context, {{prefix + "o_proj.weight", hidden}}, q_width());
    if (config.output_bias) output_bias_D_ = load_vector(context, {{prefix + "o_proj.bias", hidden}});
    if (config.qk_norm) {
      q_norm_d_ = load_vector(context, {{prefix + "q_norm.weight", config.head_dim}});
      k_norm_d_ = load_vector(context, {{prefix + "k_norm.weight", config.head_dim}});
    }
    rotary_ = {cos_sin_P2r_, context.config.rope.rotary_dim, q_norm_d_, k_norm_d_,
               context.config.rms_norm_eps};
    cache_ = {nullptr, context.spec.kv(), 0, config.kv_heads, config.head_dim, context.spec.block_size};
  }

  size_t weight_bytes() const override {
    size_t bytes = qkv_ND_->bytes() + output_DN_->bytes();
    for (const Tensor* t : {&qkv_bias_N_, &output_bias_D_, &q_norm_d_, &k_norm_d_})
      if (*t) bytes += t->view.bytes();
    return bytes;
  }

  size_t kv_bytes_per_block() const override {
    return static_cast<size_t>(cache_.block_size *
                               kv_position_bytes(cache_.kv_heads, cache_.head_dim, cache_.dtype));
  }

  size_t scratch_bytes(int64_t tokens) const override {
    return Scratch::bytes_for(projection_dtype_, {tokens, qkv_ND_->n()}) +
           Scratch::bytes_for(projection_dtype_, {tokens, q_width()}) +
           Scratch::bytes_for(dtype_, {tokens, q_width()});
  }

  void allocate_cache(int64_t blocks) override {
    cache_memory_.reset();  // for there may be no room for two
    cache_memory_ = device_.allocate(static_cast<size_t>(blocks) * kv_bytes_per_block());
    cache_.data = cache_memory_.get();
    cache_.blocks = blocks;
  }

  void use_full_precision() override { cache_.dtype = dtype_; }

  void forward(TensorView x_TD, TensorView h_TD, const BatchView& batch, Scratch& scratch) override {
    const TensorView qkv_TN = scratch.take(projection_dtype_, {batch.tokens, qkv_ND_->n()});
    const TensorView q_THd = scratch.take(projection_dtype_, {batch.tokens, q_width()});
    const TensorView out_THd = scratch.take(dtype_, {batch.tokens, q_width()});
    ops_.matmul(qkv_TN, h_TD, *qkv_ND_, qkv_bias_N_, Into::overwrite);
    ops_.rope_and_store(q_THd, cache_, qkv_TN, rotary_, batch);
    ops_.attention(out_THd, q_THd, cache_, batch, scale_);
    ops_.matmul(x_TD, out_THd, *output_DN_, output_bias_D_, Into::add);
  }

 private:
  int64_t q_width() const { return config_.heads * config_.head_dim; }

  Device& device_;
  Ops& ops_;
  GqaConfig config_;
  DType dtype_;
  DType projection_dtype_;
  float scale_;
  std::unique_ptr<Matrix> qkv_ND_;  // rows: q, then k, then v
  std::unique_ptr<Matrix> output_DN_;
  Tensor qkv_bias_N_;
  Tensor output_bias_D_;
  Tensor q_norm_d_;
  Tensor k_norm_d_;
  Tensor cos_sin_P2r_;
  RotaryView rotary_;
  DeviceMemory cache_memory_;
  KvCacheView cache_;
};

}  // namespace

std::unique_ptr<Attention> make_gqa(const BuildContext& context, const GqaConfig& config,
                                    const std::string& prefix, const Tensor& cos_sin_P2r) {
  return std::make_unique<Gqa>(context, config, prefix, cos_sin_P2r);
}

}  // namespace penstock
