#include "runtime/model/deepseek_config.h"

#include <cmath>

namespace penstock {
namespace {

constexpr int64_t kMostExperts = 1 << 16;

MlaConfig attention_of(const Fields& config, bool v3) {
  MlaConfig a;
  a.heads = config.integer("num_attention_heads", 1, kWidest);
  // Written as null, q comes from the hidden state directly; left out, the class's default holds.
  const bool no_q_latent = config.json().contains("q_lora_rank") && !config.has("q_lora_rank");
  a.q_lora_rank = no_q_latent ? 0 : config.integer("q_lora_rank", 1, kWidest, 1536);
  a.kv_lora_rank = config.integer("kv_lora_rank", 1, kWidest, 512);
  a.qk_nope_head_dim = config.integer("qk_nope_head_dim", 1, kWidest, 128);
  a.qk_rope_head_dim = config.integer("qk_rope_head_dim", 2, kWidest, 64);
  a.v_head_dim = config.integer("v_head_dim", 1, kWidest, 128);
  a.rope_interleave = !v3 || config.flag("rope_interleave", true);  // V2 knows no other way
  a.bias = config.flag("attention_bias", false);
  const int64_t widest_head = std::max(a.qk_nope_head_dim + a.qk_rope_head_dim, a.v_head_dim);
  if (a.heads * widest_head > kWidest)
    config.wrong("num_attention_heads", "at most " + std::to_string(kWidest / widest_head) + " heads of " +
                                            std::to_string(widest_head) + " values");
  return a;
}

/// Absent fields have transformers' defaults, which differ between the families.
void read_groups(GateConfig& gate, const Fields& config, bool v3) {
  gate.groups = config.integer("n_group", 1, gate.experts, v3 ? 8 : 1);
  gate.groups_kept = config.integer("topk_group", 1, gate.groups, v3 ? 4 : 1);
  if (gate.experts % gate.groups != 0)
    config.wrong("n_group", "a divisor of n_routed_experts (" + std::to_string(gate.experts) + ")");
  const int64_t a_group = gate.experts / gate.groups;
  if (gate.two_best && gate.groups > 1 && a_group < 2)
    config.wrong("n_group", "groups of at least two experts");
  if (gate.experts_per_token > gate.groups_kept * a_group)
    config.wrong("num_experts_per_tok", "at most the " + std::to_string(gate.groups_kept * a_group) +
                                            " experts of topk_group groups");
}

GateConfig gate_of(ModelConfig& out, const Fields& config, bool v3) {
  GateConfig gate;
  gate.experts = config.integer("n_routed_experts", 1, kMostExperts, v3 ? 256 : 64);
  gate.experts_per_token =
      config.integer("num_experts_per_tok", 1, gate.experts, v3 ? std::optional<int64_t>(8) : std::nullopt);
  gate.scale = static_cast<float>(config.number("routed_scaling_factor", 0, 1e6, v3 ? 2.5 : 1.0));
  const std::string method = config.text("topk_method", v3 ? "noaux_tc" : "greedy");
  const std::string score = config.text("scoring_func", v3 ? "sigmoid" : "softmax");
  if (v3) {
    if (method != "noaux_tc") config.wrong("topk_method", "\"noaux_tc\"");
    if (score != "sigmoid") config.wrong("scoring_func", "\"sigmoid\"");
    gate.score = GateConfig::Score::sigmoid;
    gate.two_best = gate.correction_bias = true;
    gate.normalise = config.flag("norm_topk_prob", true);
    read_groups(gate, config, v3);
    return gate;
  }
  if (score != "softmax") config.wrong("scoring_func", "\"softmax\"");
  if (method == "group_limited_greedy")
    read_groups(gate, config, v3);
  else if (method != "greedy")
    config.wrong("topk_method", "\"greedy\" or \"group_limited_greedy\"");
  if (config.flag("norm_topk_prob", false))
    out.notes.emplace_back(
        "norm_topk_prob is true, which deepseek_v2 passes over (as transformers does): experts keep the "
        "weights of the softmax");
  return gate;
}

}  // namespace

void read_deepseek_layers(ModelConfig& out, const Fields& config, int64_t layers, bool reads_mlp_bias) {
  const bool v3 = out.architecture == "DeepseekV3ForCausalLM";
  const MlaConfig attention = attention_of(config, v3);
  const bool mlp_bias = reads_mlp_bias && config.flag("mlp_bias", false);
  const DenseMlpConfig dense{config.integer("intermediate_size", 1, kWidest), mlp_bias};
  out.layers.assign(static_cast<size_t>(layers), LayerConfig{attention, dense});
  if (const int64_t ahead = config.integer("num_nextn_predict_layers", 0, kMostLayers, 0); ahead > 0)
    out.notes.push_back("num_nextn_predict_layers is " + std::to_string(ahead) +
                        ": layers for multi-token prediction are skipped");
  // Written as null, there are no experts.
  if (config.json().contains("n_routed_experts") && !config.has("n_routed_experts")) return;

  MoeConfig moe;
  moe.gate = gate_of(out, config, v3);
  moe.intermediate_size = config.integer("moe_intermediate_size", 1, kWidest, v3 ? 2048 : 1407);
  const bool no_shared = config.json().contains("n_shared_experts") && !config.has("n_shared_experts");
  const int64_t shared = no_shared ? 0 : config.integer("n_shared_experts", 0, kMostExperts, v3 ? 1 : 2);
  moe.shared_intermediate_size = shared * moe.intermediate_size;
  if (moe.shared_intermediate_size > kWidest)
    config.wrong("n_shared_experts", "experts of at most " + std::to_string(kWidest) + " values together");
  moe.shared_bias = mlp_bias;
  const int64_t first = config.integer("first_k_dense_replace", 0, kMostLayers, v3 ? 3 : 0);
  const int64_t every = config.integer("moe_layer_freq", 1, kMostLayers, 1);
  for (int64_t l = first; l < layers; ++l)
    if (l % every == 0) out.layers[static_cast<size_t>(l)].mlp = moe;
}

void set_latent_scale(ModelConfig& out) {
  for (LayerConfig& layer : out.layers) {
    auto& mla = std::get<MlaConfig>(layer.attention);
    mla.softmax_scale =
        static_cast<float>(out.rope.softmax_factor /
                           std::sqrt(static_cast<double>(mla.qk_nope_head_dim + mla.qk_rope_head_dim)));
  }
}

}  // namespace penstock
