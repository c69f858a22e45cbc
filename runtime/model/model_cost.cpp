#include "runtime/model/model_cost.h"

#include <algorithm>
#include <cmath>

#include "runtime/model/kv_cache.h"

namespace penstock {
namespace {

struct Counts {
  int64_t multiplied = 0;  // weights of the matrix products of one token
  int64_t vectors = 0;     // norm weights and biases
  int64_t idle = 0;        // weights of experts that one token does not choose
  int64_t plain = 0;       // of the multiplied weights: never held in FP8
  int64_t routed = 0;      // of all weights: of routed experts
};

Counts count(const GqaConfig& a, int64_t hidden) {
  const int64_t q = a.heads * a.head_dim;
  const int64_t kv = a.kv_heads * a.head_dim;
  return {hidden * (q + 2 * kv) + q * hidden,
          (a.qkv_bias ? q + 2 * kv : 0) + (a.output_bias ? hidden : 0) + (a.qk_norm ? 2 * a.head_dim : 0)};
}

/// The up-projections of K and V are absorbed: each of their weights is multiplied once a token.
Counts count(const MlaConfig& a, int64_t hidden) {
  const int64_t q = a.heads * (a.qk_nope_head_dim + a.qk_rope_head_dim);
  const int64_t latent = a.kv_lora_rank + a.qk_rope_head_dim;
  const int64_t query = a.q_lora_rank == 0 ? hidden * q : (hidden + q) * a.q_lora_rank;
  const int64_t up = a.heads * (a.qk_nope_head_dim + a.v_head_dim) * a.kv_lora_rank;
  return {query + hidden * latent + up + hidden * a.heads * a.v_head_dim,
          a.q_lora_rank + a.kv_lora_rank + (a.bias ? a.q_lora_rank + latent + hidden : 0), 0, up};
}

Counts count(const DenseMlpConfig& m, int64_t hidden) {
  return {3 * hidden * m.intermediate_size, m.bias ? 2 * m.intermediate_size + hidden : 0};
}

Counts count(const MoeConfig& m, int64_t hidden) {
  const int64_t expert = 3 * hidden * m.intermediate_size;
  const GateConfig& gate = m.gate;
  Counts all{gate.experts * hidden + gate.experts_per_token * expert, gate.correction_bias ? gate.experts : 0,
             (gate.experts - gate.experts_per_token) * expert, gate.experts * hidden, gate.experts * expert};
  if (m.shared_intermediate_size > 0) {
    const Counts shared = count(DenseMlpConfig{m.shared_intermediate_size, m.shared_bias}, hidden);
    all.multiplied += shared.multiplied;
    all.vectors += shared.vectors;
  }
  return all;
}

/// In FP8: one byte a weight, and a float for the 128 neighbours in its row.
int64_t bytes_in_fp8(int64_t weights) {
  return weights + weights / 128 * static_cast<int64_t>(bytes_of(DType::f32));
}

PartCost cost(const Counts& counts, DType dtype, bool fp8 = false) {
  const int64_t plain = fp8 ? counts.plain : counts.multiplied + counts.idle;
  return {plain * static_cast<int64_t>(bytes_of(dtype)) +
              bytes_in_fp8(counts.multiplied + counts.idle - plain) +
              counts.vectors * static_cast<int64_t>(bytes_of(DType::f32)),
          2.0 * static_cast<double>(counts.multiplied),
          fp8 ? bytes_in_fp8(counts.routed) : counts.routed * static_cast<int64_t>(bytes_of(dtype))};
}

double flops_a_position(const GqaConfig& a) {
  return 4.0 * static_cast<double>(a.heads * a.head_dim);
}
double flops_a_position(const MlaConfig& a) {
  return 2.0 * static_cast<double>(a.heads * (2 * a.kv_lora_rank + a.qk_rope_head_dim));
}

int64_t kv_bytes_a_position(const GqaConfig& a, DType kv_dtype) {
  return kv_position_bytes(a.kv_heads, a.head_dim, kv_dtype);
}
int64_t kv_bytes_a_position(const MlaConfig& a, DType kv_dtype) {
  return latent_position_bytes(a.kv_lora_rank, a.qk_rope_head_dim, kv_dtype);
}

const LayerConfig& layer_of(const ModelConfig& config, int64_t layer) {
  return config.layers.at(static_cast<size_t>(layer));
}

}  // namespace

PartCost embedding_cost(const ModelConfig& config, DType dtype) {
  return {config.vocab_size * config.hidden_size * static_cast<int64_t>(bytes_of(dtype)), 0};
}

PartCost half_cost(const ModelConfig& config, int64_t half, DType dtype) {
  const auto counted = [&](const auto& part) { return count(part, config.hidden_size); };
  const LayerConfig& layer = layer_of(config, half / 2);
  Counts counts = half % 2 == 0 ? std::visit(counted, layer.attention) : std::visit(counted, layer.mlp);
  counts.vectors += config.hidden_size;
  return cost(counts, dtype, config.fp8.has_value());
}

PartCost layer_cost(const ModelConfig& config, int64_t layer, DType dtype) {
  const PartCost attention = half_cost(config, 2 * layer, dtype);
  const PartCost mlp = half_cost(config, 2 * layer + 1, dtype);
  return {attention.weight_bytes + mlp.weight_bytes, attention.flops_per_token + mlp.flops_per_token,
          attention.expert_bytes + mlp.expert_bytes};
}

PartCost head_cost(const ModelConfig& config, DType dtype) {
  return cost({config.vocab_size * config.hidden_size, config.hidden_size}, dtype);
}

double share_of_experts_hit(const ModelConfig& config, int64_t layer, int64_t tokens) {
  const auto* moe = std::get_if<MoeConfig>(&layer_of(config, layer).mlp);
  if (moe == nullptr) return 0;
  const double missed =
      1 - static_cast<double>(moe->gate.experts_per_token) / static_cast<double>(moe->gate.experts);
  return 1 - std::pow(missed, static_cast<double>(tokens));
}

double half_work_per_token(const ModelConfig& config, int64_t half, DType dtype, int64_t tokens,
                           double flops_per_byte) {
  const PartCost cost = half_cost(config, half, dtype);
  double read = static_cast<double>(cost.weight_bytes);
  if (cost.expert_bytes > 0)
    read -= static_cast<double>(cost.expert_bytes) * (1 - share_of_experts_hit(config, half / 2, tokens));
  return std::max(cost.flops_per_token, flops_per_byte * read / static_cast<double>(tokens));
}

double attention_flops_per_token(const ModelConfig& config, int64_t layer, int64_t context) {
  return std::visit([](const auto& a) { return flops_a_position(a); }, layer_of(config, layer).attention) *
         static_cast<double>(context);
}

int64_t kv_bytes_per_block(const ModelConfig& config, int64_t layer, DType kv_dtype, int64_t block_size) {
  return block_size * std::visit([&](const auto& a) { return kv_bytes_a_position(a, kv_dtype); },
                                 layer_of(config, layer).attention);
}

}  // namespace penstock
