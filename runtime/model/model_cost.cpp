#include "runtime/model/model_cost.h"

namespace penstock {
namespace {

struct Counts {
  int64_t multiplied = 0;  // weights of matrix products
  int64_t vectors = 0;     // norm weights and biases
};

Counts count(const GqaConfig& a, int64_t hidden) {
  const int64_t q = a.heads * a.head_dim;
  const int64_t kv = a.kv_heads * a.head_dim;
  return {hidden * (q + 2 * kv) + q * hidden,
          (a.qkv_bias ? q + 2 * kv : 0) + (a.output_bias ? hidden : 0) + (a.qk_norm ? 2 * a.head_dim : 0)};
}

Counts count(const DenseMlpConfig& m, int64_t hidden) {
  return {3 * hidden * m.intermediate_size, m.bias ? 2 * m.intermediate_size + hidden : 0};
}

PartCost cost(int64_t multiplied, int64_t vectors, DType dtype) {
  return {multiplied * static_cast<int64_t>(bytes_of(dtype)) +
              vectors * static_cast<int64_t>(bytes_of(DType::f32)),
          2.0 * static_cast<double>(multiplied)};
}

const LayerConfig& layer_of(const ModelConfig& config, int64_t layer) {
  return config.layers.at(static_cast<size_t>(layer));
}

}  // namespace

PartCost embedding_cost(const ModelConfig& config, DType dtype) {
  return {config.vocab_size * config.hidden_size * static_cast<int64_t>(bytes_of(dtype)), 0};
}

PartCost layer_cost(const ModelConfig& config, int64_t layer, DType dtype) {
  const auto counted = [&](const auto& part) { return count(part, config.hidden_size); };
  const Counts attention = std::visit(counted, layer_of(config, layer).attention);
  const Counts mlp = std::visit(counted, layer_of(config, layer).mlp);
  return cost(attention.multiplied + mlp.multiplied, attention.vectors + mlp.vectors + 2 * config.hidden_size,
              dtype);
}

PartCost head_cost(const ModelConfig& config, DType dtype) {
  return cost(config.vocab_size * config.hidden_size, config.hidden_size, dtype);
}

double attention_flops_per_token(const ModelConfig& config, int64_t layer, int64_t context) {
  const auto& gqa = std::get<GqaConfig>(layer_of(config, layer).attention);
  return 4.0 * static_cast<double>(gqa.heads * gqa.head_dim) * static_cast<double>(context);
}

int64_t kv_bytes_per_block(const ModelConfig& config, int64_t layer, DType dtype, int64_t block_size) {
  const auto& gqa = std::get<GqaConfig>(layer_of(config, layer).attention);
  return 2 * gqa.kv_heads * gqa.head_dim * block_size * static_cast<int64_t>(bytes_of(dtype));
}

}  // namespace penstock
