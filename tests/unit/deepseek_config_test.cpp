// config.json of deepseek_v2 and deepseek_v3, and what their parts cost.
#include <cmath>

#include "runtime/model/config.h"
#include "runtime/model/model_cost.h"
#include "tests/unit/model_fixtures.h"

namespace penstock {
namespace {

using test::TempDir;
using test::usage_error;
using Json = nlohmann::json;

/// DeepSeek-V3 as published, without its quantization.
Json v3() {
  return Json::parse(R"({"architectures": ["DeepseekV3ForCausalLM"], "model_type": "deepseek_v3",
    "attention_bias": false, "first_k_dense_replace": 3, "hidden_act": "silu", "hidden_size": 7168,
    "intermediate_size": 18432, "kv_lora_rank": 512, "max_position_embeddings": 163840,
    "moe_intermediate_size": 2048, "moe_layer_freq": 1, "n_group": 8, "n_routed_experts": 256,
    "n_shared_experts": 1, "norm_topk_prob": true, "num_attention_heads": 128, "num_experts_per_tok": 8,
    "num_hidden_layers": 61, "num_key_value_heads": 128, "num_nextn_predict_layers": 1, "q_lora_rank": 1536,
    "qk_nope_head_dim": 128, "qk_rope_head_dim": 64, "rms_norm_eps": 1e-06,
    "rope_scaling": {"beta_fast": 32, "beta_slow": 1, "factor": 40, "mscale": 1.0, "mscale_all_dim": 1.0,
                     "original_max_position_embeddings": 4096, "type": "yarn"},
    "rope_theta": 10000, "routed_scaling_factor": 2.5, "scoring_func": "sigmoid", "topk_group": 4,
    "topk_method": "noaux_tc", "torch_dtype": "bfloat16", "v_head_dim": 128, "vocab_size": 129280})");
}

/// DeepSeek-V2-Lite as published.
Json v2_lite() {
  return Json::parse(R"({"architectures": ["DeepseekV2ForCausalLM"], "model_type": "deepseek_v2",
    "first_k_dense_replace": 1, "hidden_size": 2048, "intermediate_size": 10944, "kv_lora_rank": 512,
    "max_position_embeddings": 163840, "moe_intermediate_size": 1408, "moe_layer_freq": 1, "n_group": 1,
    "n_routed_experts": 64, "n_shared_experts": 2, "norm_topk_prob": false, "num_attention_heads": 16,
    "num_experts_per_tok": 6, "num_hidden_layers": 27, "num_key_value_heads": 16, "q_lora_rank": null,
    "qk_nope_head_dim": 128, "qk_rope_head_dim": 64, "rms_norm_eps": 1e-06,
    "rope_scaling": {"beta_fast": 32, "beta_slow": 1, "factor": 40, "mscale": 0.707, "mscale_all_dim": 0.707,
                     "original_max_position_embeddings": 4096, "type": "yarn"},
    "rope_theta": 10000, "routed_scaling_factor": 1.0, "scoring_func": "softmax", "topk_group": 1,
    "topk_method": "greedy", "torch_dtype": "bfloat16", "v_head_dim": 128, "vocab_size": 102400})");
}

Json with(Json config, const std::string& field, const Json& value) {
  config[field] = value;
  return config;
}

ModelConfig load(const Json& config) {
  const TempDir dir;
  dir.write("config.json", config.dump());
  return load_model_config(dir.path());
}
std::string error_of(const Json& config) {
  return usage_error([&] { load(config); });
}

const MlaConfig& mla(const ModelConfig& c) {
  return std::get<MlaConfig>(c.layers.front().attention);
}
const MoeConfig& moe(const ModelConfig& c) {
  return std::get<MoeConfig>(c.layers.back().mlp);
}

TEST(DeepseekConfig, ReadsV3AsPublished) {
  const ModelConfig c = load(v3());
  EXPECT_EQ(mla(c).q_lora_rank, 1536);
  EXPECT_EQ(mla(c).kv_lora_rank, 512);
  EXPECT_TRUE(mla(c).rope_interleave);
  EXPECT_EQ(c.rope.rotary_dim, 64);
  EXPECT_EQ(rope_attention_factor(c.rope), 1.0F);
  const double mscale = 0.1 * std::log(40.0) + 1;
  EXPECT_FLOAT_EQ(mla(c).softmax_scale, static_cast<float>(mscale * mscale / std::sqrt(192.0)));
  for (size_t l = 0; l < 61; ++l) EXPECT_EQ(std::holds_alternative<MoeConfig>(c.layers[l].mlp), l >= 3);
  const GateConfig& gate = moe(c).gate;
  EXPECT_EQ(gate.score, GateConfig::Score::sigmoid);
  EXPECT_TRUE(gate.two_best && gate.correction_bias && gate.normalise);
  EXPECT_EQ(gate.groups, 8);
  EXPECT_EQ(gate.groups_kept, 4);
  EXPECT_EQ(gate.scale, 2.5F);
  EXPECT_EQ(moe(c).shared_intermediate_size, 2048);
  ASSERT_EQ(c.notes.size(), 1U);
  EXPECT_CONTAINS(c.notes[0], "multi-token prediction");
}

TEST(DeepseekConfig, ReadsV2LiteAsPublished) {
  const ModelConfig c = load(v2_lite());
  EXPECT_EQ(mla(c).q_lora_rank, 0);
  const GateConfig& gate = moe(c).gate;
  EXPECT_EQ(gate.score, GateConfig::Score::softmax);
  EXPECT_FALSE(gate.two_best || gate.correction_bias || gate.normalise);
  EXPECT_EQ(gate.groups, 1);
  EXPECT_EQ(moe(c).shared_intermediate_size, 2816);
  EXPECT_TRUE(c.notes.empty());
}

TEST(DeepseekConfig, WeightsAndCacheAreAsLargeAsPublished) {
  const auto all_weights = [](const ModelConfig& c) {
    int64_t bytes = embedding_cost(c, DType::bf16).weight_bytes + head_cost(c, DType::bf16).weight_bytes;
    for (int64_t l = 0; l < c.layer_count(); ++l) bytes += layer_cost(c, l, DType::bf16).weight_bytes;
    return static_cast<double>(bytes) / 2e9;
  };
  EXPECT_NEAR(all_weights(load(v2_lite())), 15.7, 0.05);  // billions
  EXPECT_NEAR(all_weights(load(v3())), 671.0, 0.5);
  const auto kv_of_all_layers = [](const ModelConfig& c, DType kv_dtype) {
    int64_t bytes = 0;
    for (int64_t l = 0; l < c.layer_count(); ++l) bytes += kv_bytes_per_block(c, l, kv_dtype, 16);
    return bytes / 16;
  };
  EXPECT_EQ(kv_of_all_layers(load(v2_lite()), DType::bf16), 27 * 576 * 2);
  EXPECT_EQ(kv_of_all_layers(load(v2_lite()), DType::e4m3), 27 * (576 + 8));
  EXPECT_EQ(kv_of_all_layers(load(v3()), DType::bf16), 61 * 576 * 2);
  EXPECT_EQ(kv_of_all_layers(load(v3()), DType::e4m3), 61 * (576 + 8));
  EXPECT_EQ(kv_of_all_layers(load(v3()), DType::i8), 61 * (576 + 8));
  // A token takes 37 billion of V3's weights.
  const ModelConfig c = load(v3());
  double flops = head_cost(c, DType::bf16).flops_per_token;
  for (int64_t l = 0; l < c.layer_count(); ++l) flops += layer_cost(c, l, DType::bf16).flops_per_token;
  EXPECT_NEAR(flops / 2e9, 36.6, 0.5);
}

TEST(DeepseekConfig, MscaleAloneChangesTheAnglesAndNotTheScale) {
  Json config = v3();
  config["rope_scaling"].erase("mscale_all_dim");
  const ModelConfig c = load(config);
  EXPECT_FLOAT_EQ(mla(c).softmax_scale, 1 / std::sqrt(192.0F));
  EXPECT_FLOAT_EQ(rope_attention_factor(c.rope), static_cast<float>(0.1 * std::log(40.0) + 1));
}

TEST(DeepseekConfig, MscaleAllDimSharpensTheSoftmaxUnderAnyScalingOfRope) {
  Json config = v3();
  config["rope_scaling"] = {{"type", "linear"}, {"factor", 4.0}, {"mscale_all_dim", 0.5}};
  const double mscale = 0.1 * 0.5 * std::log(4.0) + 1;
  const ModelConfig c = load(config);
  EXPECT_FLOAT_EQ(mla(c).softmax_scale, static_cast<float>(mscale * mscale / std::sqrt(192.0)));
  EXPECT_EQ(rope_attention_factor(c.rope), 1.0F);
  config["rope_scaling"]["type"] = "default";
  EXPECT_FLOAT_EQ(mla(load(config)).softmax_scale, 1 / std::sqrt(192.0F));
}

TEST(DeepseekConfig, V2AlwaysRotatesNeighbours) {
  EXPECT_TRUE(mla(load(with(v2_lite(), "rope_interleave", false))).rope_interleave);
  EXPECT_FALSE(mla(load(with(v3(), "rope_interleave", false))).rope_interleave);
}

TEST(DeepseekConfig, ALayerWithExpertsTakesTheTimeOfReadingThemWhereFewTokensShareThem) {
  const ModelConfig c = load(v2_lite());
  EXPECT_EQ(share_of_experts_hit(c, 0, 64), 0) << "a dense layer";
  EXPECT_DOUBLE_EQ(share_of_experts_hit(c, 1, 1), 6.0 / 64);
  EXPECT_NEAR(share_of_experts_hit(c, 1, 64), 0.998, 0.001);
  const PartCost dense = half_cost(c, 1, DType::bf16);
  const PartCost experts = half_cost(c, 3, DType::bf16);
  EXPECT_EQ(dense.expert_bytes, 0);
  EXPECT_EQ(experts.expert_bytes, int64_t{2} * 64 * 3 * 2048 * 1408);
  EXPECT_EQ(half_work_per_token(c, 1, DType::bf16, 64, 12), dense.flops_per_token) << "products take longer";
  EXPECT_NEAR(half_work_per_token(c, 3, DType::bf16, 64, 12),
              12.0 * static_cast<double>(experts.weight_bytes) / 64, 1e6);
  EXPECT_EQ(half_work_per_token(c, 3, DType::bf16, 100000, 12), experts.flops_per_token);
}

TEST(DeepseekConfig, LayersWithExpertsFollowFirstAndFrequency) {
  const ModelConfig c = load(with(v3(), "moe_layer_freq", 2));
  for (size_t l = 0; l < 61; ++l)
    EXPECT_EQ(std::holds_alternative<MoeConfig>(c.layers[l].mlp), l >= 3 && l % 2 == 0) << l;
  const ModelConfig dense = load(with(v3(), "n_routed_experts", nullptr));
  EXPECT_TRUE(std::holds_alternative<DenseMlpConfig>(dense.layers.back().mlp));
}

TEST(DeepseekConfig, SharedExpertsMayBeAbsent) {
  EXPECT_EQ(moe(load(with(v3(), "n_shared_experts", nullptr))).shared_intermediate_size, 0);
  EXPECT_EQ(moe(load(with(v3(), "n_shared_experts", 0))).shared_intermediate_size, 0);
}

TEST(DeepseekConfig, NamesTheFieldThatDoesNotFit) {
  EXPECT_CONTAINS(error_of(with(v3(), "n_group", 7)),
                  "n_group: expected a divisor of n_routed_experts (256)");
  EXPECT_CONTAINS(error_of(with(v3(), "num_experts_per_tok", 200)),
                  "num_experts_per_tok: expected at most the 128 experts of topk_group groups");
  EXPECT_CONTAINS(error_of(with(v3(), "topk_method", "greedy")), "topk_method: expected \"noaux_tc\"");
  EXPECT_CONTAINS(error_of(with(v2_lite(), "topk_method", "noaux_tc")),
                  "topk_method: expected \"greedy\" or \"group_limited_greedy\"");
  EXPECT_CONTAINS(error_of(with(v2_lite(), "num_experts_per_tok", nullptr)), "num_experts_per_tok");
  EXPECT_CONTAINS(error_of(with(v3(), "qk_rope_head_dim", 63)), "expected an even number of rotated values");
}

TEST(DeepseekConfig, SaysThatV2PassesOverNormTopkProb) {
  const ModelConfig c = load(with(v2_lite(), "norm_topk_prob", true));
  ASSERT_EQ(c.notes.size(), 1U);
  EXPECT_CONTAINS(c.notes[0], "norm_topk_prob");
  EXPECT_FALSE(moe(c).gate.normalise);
}

}  // namespace
}  // namespace penstock
