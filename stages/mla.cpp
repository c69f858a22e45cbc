// Multi-head latent attention (DeepSeek-V2, 2024) over a paged cache of latents, with the up-projections of K
// and V absorbed: q's plain part is multiplied with K's up-projection, so that it meets the latent itself,
// and V's is applied to what attention gathered. One form for prefill, chunks and decode: a row's bits do not
// depend on which it was.
#include <cstring>

#include "runtime/model/kv_cache.h"
#include "stages/parts.h"

namespace penstock {
namespace {

/// The norms of the latents keep this whatever rms_norm_eps is: so DeepSeek's own code and transformers.
constexpr float kLatentNormEps = 1e-6F;

using Heads = std::vector<std::unique_ptr<Matrix>>;

std::vector<const Matrix*> pointers(const Heads& heads) {
  std::vector<const Matrix*> all;
  for (const auto& head : heads) all.push_back(head.get());
  return all;
}

size_t bytes_of_all(const Heads& heads) {
  size_t bytes = 0;
  for (const auto& head : heads) bytes += head->bytes();
  return bytes;
}

/// kv_b_proj holds, for each head, n rows that make K's plain part of a latent and v rows that make V. The
/// first are wanted transposed, as a product from q's plain part to the latent.
void load_up_projections(const BuildContext& context, const MlaConfig& config, const std::string& name,
                         Heads& key_H, Heads& value_H) {
  const int64_t n = config.qk_nope_head_dim;
  const int64_t v = config.v_head_dim;
  const int64_t l = config.kv_lora_rank;
  const int64_t rows = config.heads * (n + v);
  std::vector<float> all(static_cast<size_t>(rows * l));
  read_floats(context, {name, rows}, l, [&](int64_t first, const TensorView& chunk) {
    std::memcpy(all.data() + first * l, chunk.data, chunk.bytes());
  });
  std::vector<float> turned(static_cast<size_t>(l * n));
  for (int64_t h = 0; h < config.heads; ++h) {
    float* head = all.data() + h * (n + v) * l;
    for (int64_t i = 0; i < n; ++i)
      for (int64_t j = 0; j < l; ++j) turned[static_cast<size_t>(j * n + i)] = head[i * l + j];
    key_H.push_back(context.ops.make_matrix(l, n, context.spec.dtype));
    context.ops.load_rows(*key_H.back(), 0, {turned.data(), DType::f32, {l, n}});
    value_H.push_back(context.ops.make_matrix(v, l, context.spec.dtype));
    context.ops.load_rows(*value_H.back(), 0, {head + n * l, DType::f32, {v, l}});
  }
}

class Mla final : public Attention {
 public:
  Mla(const BuildContext& context, const MlaConfig& config, const std::string& prefix,
      const Tensor& cos_sin_P2r)
      : device_(context.device),
        ops_(context.ops),
        config_(config),
        dtype_(context.spec.dtype),
        cos_sin_P2r_(cos_sin_P2r) {
    const int64_t hidden = context.config.hidden_size;
    const auto vector = [&](const char* name, int64_t size) {
      return load_vector(context, {{prefix + name, size}});
    };
    const auto matrix = [&](const char* name, int64_t rows, int64_t k) {
      return load_matrix(context, {{prefix + name, rows}}, k);
    };
    if (config.q_lora_rank == 0) {
      query_ = matrix("q_proj.weight", heads() * head_width(), hidden);
    } else {
      query_latent_ = matrix("q_a_proj.weight", config.q_lora_rank, hidden);
      if (config.bias) query_latent_bias_ = vector("q_a_proj.bias", config.q_lora_rank);
      query_norm_ = vector("q_a_layernorm.weight", config.q_lora_rank);
      query_ = matrix("q_b_proj.weight", heads() * head_width(), config.q_lora_rank);
    }
    latent_ = matrix("kv_a_proj_with_mqa.weight", latent_width(), hidden);
    if (config.bias) latent_bias_ = vector("kv_a_proj_with_mqa.bias", latent_width());
    latent_norm_L_ = vector("kv_a_layernorm.weight", config.kv_lora_rank);
    load_up_projections(context, config, prefix + "kv_b_proj.weight", key_HLn_, value_HvL_);
    output_ = matrix("o_proj.weight", hidden, heads() * config.v_head_dim);
    if (config.bias) output_bias_D_ = vector("o_proj.bias", hidden);
    rotary_ = {cos_sin_P2r_, config.rope_interleave, latent_norm_L_, kLatentNormEps};
    cache_ = {
        nullptr, context.spec.kv(), 0, config.kv_lora_rank, config.qk_rope_head_dim, context.spec.block_size};
    key_pointers_ = pointers(key_HLn_);
    value_pointers_ = pointers(value_HvL_);
  }

  size_t weight_bytes() const override {
    size_t bytes = query_->bytes() + latent_->bytes() + output_->bytes() + bytes_of_all(key_HLn_) +
                   bytes_of_all(value_HvL_) + (query_latent_ ? query_latent_->bytes() : 0);
    for (const Tensor* t :
         {&query_latent_bias_, &query_norm_, &latent_bias_, &latent_norm_L_, &output_bias_D_})
      if (*t) bytes += t->view.bytes();
    return bytes;
  }

  size_t kv_bytes_per_block() const override {
    return static_cast<size_t>(cache_.block_size *
                               latent_position_bytes(cache_.latent_dim, cache_.rope_dim, cache_.dtype));
  }

  size_t scratch_bytes(int64_t tokens) const override {
    const Shape q_THe{tokens, heads(), head_width()};
    return Scratch::bytes_for(DType::f32, q_THe) +
           (query_latent_ ? Scratch::bytes_for(DType::f32, {tokens, config_.q_lora_rank}) +
                                Scratch::bytes_for(dtype_, {tokens, config_.q_lora_rank})
                          : 0) +
           Scratch::bytes_for(DType::f32, {tokens, latent_width()}) +
           Scratch::bytes_for(dtype_, {tokens, heads(), config_.qk_nope_head_dim}) +
           Scratch::bytes_for(DType::f32, {tokens, heads(), latent_width()}) +
           Scratch::bytes_for(dtype_, {tokens, heads(), config_.kv_lora_rank}) +
           Scratch::bytes_for(dtype_, {tokens, heads() * config_.v_head_dim});
  }

  void allocate_cache(int64_t blocks) override {
    cache_memory_.reset();  // for there may be no room for two
    cache_memory_ = device_.allocate(static_cast<size_t>(blocks) * kv_bytes_per_block());
    cache_.data = cache_memory_.get();
    cache_.blocks = blocks;
  }

  void use_full_precision() override { cache_.dtype = dtype_; }

  void forward(TensorView x_TD, TensorView h_TD, const BatchView& batch, Scratch& scratch) override {
    const int64_t tokens = batch.tokens;
    const TensorView q_THe = scratch.take(DType::f32, {tokens, heads(), head_width()});
    TensorView q_TN = q_THe;
    q_TN.shape = {tokens, heads() * head_width()};
    if (query_latent_) {
      const TensorView latent_TQ = scratch.take(DType::f32, {tokens, config_.q_lora_rank});
      const TensorView normed_TQ = scratch.take(dtype_, {tokens, config_.q_lora_rank});
      ops_.matmul(latent_TQ, h_TD, *query_latent_, query_latent_bias_, Into::overwrite);
      ops_.rms_norm(normed_TQ, latent_TQ, query_norm_, kLatentNormEps);
      ops_.matmul(q_TN, normed_TQ, *query_, {}, Into::overwrite);
    } else {
      ops_.matmul(q_TN, h_TD, *query_, {}, Into::overwrite);
    }
    const TensorView latent_TL = scratch.take(DType::f32, {tokens, latent_width()});
    ops_.matmul(latent_TL, h_TD, *latent_, latent_bias_, Into::overwrite);

    const TensorView plain_THn = scratch.take(dtype_, {tokens, heads(), config_.qk_nope_head_dim});
    const TensorView q_THd = scratch.take(DType::f32, {tokens, heads(), latent_width()});
    const TensorView out_THL = scratch.take(dtype_, {tokens, heads(), config_.kv_lora_rank});
    const TensorView out_TO = scratch.take(dtype_, {tokens, heads() * config_.v_head_dim});
    TensorView out_THv = out_TO;
    out_THv.shape = {tokens, heads(), config_.v_head_dim};
    ops_.latent_rope_and_store(q_THd, plain_THn, cache_, q_THe, latent_TL, rotary_, batch);
    ops_.matmul_by_head(q_THd, plain_THn, key_pointers_);
    ops_.latent_attention(out_THL, q_THd, cache_, batch, config_.softmax_scale);
    ops_.matmul_by_head(out_THv, out_THL, value_pointers_);
    ops_.matmul(x_TD, out_TO, *output_, output_bias_D_, Into::add);
  }

 private:
  int64_t heads() const { return config_.heads; }
  int64_t head_width() const { return config_.qk_nope_head_dim + config_.qk_rope_head_dim; }
  int64_t latent_width() const { return config_.kv_lora_rank + config_.qk_rope_head_dim; }

  Device& device_;
  Ops& ops_;
  MlaConfig config_;
  DType dtype_;
  std::unique_ptr<Matrix> query_latent_;  // null without q_lora_rank
  std::unique_ptr<Matrix> query_;
  std::unique_ptr<Matrix> latent_;  // rows: the latent, then the key to be rotated
  Heads key_HLn_;
  Heads value_HvL_;
  std::unique_ptr<Matrix> output_;
  Tensor query_latent_bias_;
  Tensor query_norm_;
  Tensor latent_bias_;
  Tensor latent_norm_L_;
  Tensor output_bias_D_;
  Tensor cos_sin_P2r_;
  LatentRotaryView rotary_;
  std::vector<const Matrix*> key_pointers_;
  std::vector<const Matrix*> value_pointers_;
  DeviceMemory cache_memory_;
  LatentCacheView cache_;
};

}  // namespace

std::unique_ptr<Attention> make_mla(const BuildContext& context, const MlaConfig& config,
                                    const std::string& prefix, const Tensor& cos_sin_P2r) {
  return std::make_unique<Mla>(context, config, prefix, cos_sin_P2r);
}

}  // namespace penstock
