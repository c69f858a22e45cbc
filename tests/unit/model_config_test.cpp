#include "runtime/model/config.h"
#include "tests/unit/model_fixtures.h"

namespace penstock {
namespace {

using test::TempDir;
using test::usage_error;
using Json = nlohmann::json;

Json llama() {
  return {{"architectures", {"LlamaForCausalLM"}},
          {"model_type", "llama"},
          {"vocab_size", 2048},
          {"hidden_size", 192},
          {"intermediate_size", 512},
          {"num_hidden_layers", 18},
          {"num_attention_heads", 6},
          {"num_key_value_heads", 2},
          {"max_position_embeddings", 2048},
          {"rms_norm_eps", 1e-5},
          {"hidden_act", "silu"},
          {"dtype", "bfloat16"},
          {"rope_parameters", {{"rope_type", "default"}, {"rope_theta", 20000.0}}},
          {"bos_token_id", 0},
          {"eos_token_id", 1}};
}

Json with(Json config, const Json& changes) {
  config.merge_patch(changes);  // a null removes a field
  return config;
}

ModelConfig load(const Json& config, const Json& generation = nullptr) {
  const TempDir dir;
  dir.write("config.json", config.dump());
  if (!generation.is_null()) dir.write("generation_config.json", generation.dump());
  return load_model_config(dir.path());
}

std::string error_of(const Json& config) {
  return usage_error([&] { load(config); });
}

const GqaConfig& gqa(const ModelConfig& c) {
  return std::get<GqaConfig>(c.layers.front().attention);
}
const DenseMlpConfig& dense(const ModelConfig& c) {
  return std::get<DenseMlpConfig>(c.layers.front().mlp);
}

TEST(ModelConfig, ReadsALlama) {
  const ModelConfig c = load(llama());
  EXPECT_EQ(c.layer_count(), 18);
  EXPECT_EQ(c.vocab_size, 2048);
  EXPECT_EQ(c.hidden_size, 192);
  EXPECT_EQ(c.rms_norm_eps, 1e-5F);
  EXPECT_EQ(c.dtype, DType::bf16);
  EXPECT_FALSE(c.tie_word_embeddings);
  EXPECT_EQ(gqa(c).heads, 6);
  EXPECT_EQ(gqa(c).kv_heads, 2);
  EXPECT_EQ(gqa(c).head_dim, 32);
  EXPECT_FALSE(gqa(c).qkv_bias || gqa(c).output_bias || gqa(c).qk_norm);
  EXPECT_EQ(dense(c).intermediate_size, 512);
  EXPECT_EQ(c.rope.theta, 20000);
  EXPECT_EQ(c.rope.rotary_dim, 32);
  EXPECT_EQ(c.eos_token_ids, std::vector<int32_t>{1});
  EXPECT_EQ(c.bos_token_id, 0);
}

TEST(ModelConfig, TheOlderSpellingMeansTheSame) {
  const ModelConfig c = load(with(llama(), {{"rope_parameters", nullptr},
                                            {"dtype", nullptr},
                                            {"torch_dtype", "float16"},
                                            {"rope_theta", 500000.0},
                                            {"rope_scaling", {{"type", "linear"}, {"factor", 4.0}}}}));
  EXPECT_EQ(c.dtype, DType::f16);
  EXPECT_EQ(c.rope.theta, 500000);
  EXPECT_EQ(std::get<RopeLinear>(c.rope.scaling).factor, 4);
}

TEST(ModelConfig, BiasesFollowTheFamily) {
  const Json biased = {{"attention_bias", true}, {"mlp_bias", true}};
  const ModelConfig a = load(with(llama(), biased));
  EXPECT_TRUE(gqa(a).qkv_bias && gqa(a).output_bias && dense(a).bias);

  const ModelConfig q2 = load(with(llama(), {{"architectures", {"Qwen2ForCausalLM"}}}));
  EXPECT_TRUE(gqa(q2).qkv_bias);
  EXPECT_FALSE(gqa(q2).output_bias || gqa(q2).qk_norm || dense(q2).bias);

  const ModelConfig q3 = load(with(llama(), {{"architectures", {"Qwen3ForCausalLM"}}}));
  EXPECT_TRUE(gqa(q3).qk_norm);
  EXPECT_FALSE(gqa(q3).qkv_bias);
  EXPECT_EQ(gqa(q3).head_dim, 128) << "what transformers assumes when head_dim is left out";

  const ModelConfig m = load(
      with(with(llama(), biased), {{"architectures", {"MistralForCausalLM"}}, {"sliding_window", 4096}}));
  EXPECT_FALSE(gqa(m).qkv_bias || gqa(m).output_bias || dense(m).bias) << "Mistral has no such fields";
}

TEST(ModelConfig, AnExplicitHeadSizeNeedNotDivideTheHiddenSize) {
  const ModelConfig c = load(with(llama(), {{"head_dim", 20}, {"partial_rotary_factor", 0.5}}));
  EXPECT_EQ(gqa(c).head_dim, 20);
  EXPECT_EQ(c.rope.rotary_dim, 10);
}

TEST(ModelConfig, ReadsYarnAndLlama3) {
  const ModelConfig y = load(with(llama(), {{"rope_parameters",
                                             {{"rope_type", "yarn"},
                                              {"factor", 4.0},
                                              {"original_max_position_embeddings", 1024},
                                              {"mscale", 0.7},
                                              {"truncate", false}}}}));
  const auto& yarn = std::get<RopeYarn>(y.rope.scaling);
  EXPECT_EQ(yarn.factor, 4);
  EXPECT_EQ(yarn.original_max_position_embeddings, 1024);
  EXPECT_EQ(yarn.beta_fast, 32);
  EXPECT_EQ(yarn.mscale, 0.7);
  EXPECT_FALSE(yarn.mscale_all_dim || yarn.attention_factor || yarn.truncate);

  const ModelConfig l = load(with(
      llama(),
      {{"rope_parameters",
        {{"rope_type", "llama3"}, {"factor", 8.0}, {"low_freq_factor", 1.0}, {"high_freq_factor", 4.0}}}}));
  EXPECT_EQ(std::get<RopeLlama3>(l.rope.scaling).original_max_position_embeddings, 2048);
}

TEST(ModelConfig, OnlyInterpolationMakesTheModelLonger) {
  const auto longest = [](const Json& rope) {
    return default_max_model_len(load(with(llama(), {{"rope_parameters", rope}})));
  };
  EXPECT_EQ(longest({{"rope_type", "default"}}), 2048);
  EXPECT_EQ(longest({{"rope_type", "linear"}, {"factor", 2.5}}), 5120);
  EXPECT_EQ(longest({{"rope_type", "yarn"}, {"factor", 4.0}}), 8192);
  EXPECT_EQ(longest({{"rope_type", "yarn"}, {"factor", 4.0}, {"original_max_position_embeddings", 64}}),
            2048);
  EXPECT_EQ(
      longest({{"rope_type", "llama3"}, {"factor", 8.0}, {"low_freq_factor", 1}, {"high_freq_factor", 4}}),
      2048);
}

TEST(ModelConfig, StopTokensComeFromTheGenerationConfigFirst) {
  const ModelConfig c = load(llama(), {{"eos_token_id", {7, 9}}});
  EXPECT_EQ(c.eos_token_ids, (std::vector<int32_t>{7, 9}));
  EXPECT_EQ(c.bos_token_id, 0) << "config.json has what generation_config.json leaves out";
}

TEST(ModelConfig, AutoDtypeKeepsEveryBitOfAHalfPrecisionCheckpoint) {
  EXPECT_EQ(resolve_dtype("auto", load(llama())), DType::bf16);
  EXPECT_EQ(resolve_dtype("auto", load(with(llama(), {{"dtype", "float16"}}))), DType::f32);
  EXPECT_EQ(resolve_dtype("float32", load(llama())), DType::f32);
  EXPECT_CONTAINS(usage_error([] { resolve_dtype("int8", load(llama())); }), "found 'int8'");
}

TEST(ModelConfig, AnUnknownArchitectureIsToldWhatIsSupported) {
  const std::string message = error_of(with(llama(), {{"architectures", {"GemmaForCausalLM"}}}));
  EXPECT_CONTAINS(message, "'GemmaForCausalLM' is not supported");
  EXPECT_CONTAINS(message, "LlamaForCausalLM, MistralForCausalLM, Qwen2ForCausalLM, Qwen3ForCausalLM");
  EXPECT_EQ(load(with(llama(), {{"architectures", nullptr}})).architecture, "LlamaForCausalLM");
}

TEST(ModelConfig, ReadsTheBlocksOfAnFp8Checkpoint) {
  const Json quantization = {{"quant_method", "fp8"}, {"fmt", "e4m3"}, {"weight_block_size", {128, 256}}};
  const ModelConfig c = load(with(llama(), {{"quantization_config", quantization}}));
  EXPECT_EQ(c.fp8, (Fp8Blocks{128, 256}));
  EXPECT_FALSE(load(llama()).fp8.has_value());
  EXPECT_CONTAINS(error_of(with(llama(), {{"quantization_config", {{"quant_method", "fp8"}}}})),
                  "weight_block_size: expected two counts");
}

TEST(ModelConfig, WhatIsNotComputedIsRefused) {
  EXPECT_CONTAINS(error_of(with(llama(), {{"quantization_config", {{"quant_method", "gptq"}}}})),
                  "quantization_config (gptq)");
  EXPECT_CONTAINS(error_of(with(llama(), {{"hidden_act", "gelu"}})),
                  "hidden_act: expected \"silu\", found \"gelu\"");
  for (const char* type : {"dynamic", "longrope", "mrope"})
    EXPECT_CONTAINS(error_of(with(llama(), {{"rope_parameters", {{"rope_type", type}, {"factor", 2.0}}}})),
                    std::string("rope type '") + type + "' is not supported");
  EXPECT_CONTAINS(
      error_of(with(llama(), {{"rope_parameters", {{"full_attention", {{"rope_type", "default"}}}}}})),
      "full_attention");
}

TEST(ModelConfig, AnActiveSlidingWindowIsRefusedAndASwitchedOffOneIsNot) {
  const Json mistral = with(llama(), {{"architectures", {"MistralForCausalLM"}}});
  EXPECT_CONTAINS(error_of(with(mistral, {{"sliding_window", 1024}})), "sliding_window 1024");
  EXPECT_NO_THROW(load(with(mistral, {{"sliding_window", 2048}}))) << "as long as the longest sequence";
  Json off = mistral;
  off["sliding_window"] = nullptr;
  EXPECT_NO_THROW(load(off));

  const Json qwen = with(llama(), {{"architectures", {"Qwen2ForCausalLM"}}, {"sliding_window", 1024}});
  EXPECT_NO_THROW(load(with(qwen, {{"use_sliding_window", false}, {"max_window_layers", 4}})));
  EXPECT_NO_THROW(load(with(qwen, {{"use_sliding_window", true}, {"max_window_layers", 18}})));
  EXPECT_CONTAINS(error_of(with(qwen, {{"use_sliding_window", true}, {"max_window_layers", 4}})),
                  "sliding_window 1024");
}

TEST(ModelConfig, NumbersOutOfRangeAreNamed) {
  EXPECT_CONTAINS(error_of(with(llama(), {{"num_hidden_layers", -1}})),
                  "num_hidden_layers: expected an integer from 1 to 4096, found -1");
  EXPECT_CONTAINS(error_of(with(llama(), {{"vocab_size", nullptr}})), "vocab_size: expected an integer");
  EXPECT_CONTAINS(error_of(with(llama(), {{"vocab_size", 18446744073709551615ULL}})), "vocab_size");
  EXPECT_CONTAINS(error_of(with(llama(), {{"hidden_size", 192.5}})), "found 192.5");
  EXPECT_CONTAINS(error_of(with(llama(), {{"hidden_size", "192"}})), "found \"192\"");
  EXPECT_CONTAINS(error_of(with(llama(), {{"num_key_value_heads", 4}})),
                  "a divisor of num_attention_heads (6)");
  EXPECT_CONTAINS(error_of(with(llama(), {{"num_attention_heads", 1 << 20}, {"head_dim", 4096}})),
                  "head_dim");
  EXPECT_CONTAINS(error_of(with(llama(), {{"head_dim", 7}})), "even number of rotated values");
  EXPECT_CONTAINS(error_of(with(llama(), {{"rms_norm_eps", -1e-6}})), "rms_norm_eps");
  EXPECT_CONTAINS(error_of(with(llama(), {{"rope_parameters", {{"rope_type", "linear"}, {"factor", 0}}}})),
                  "factor");
  EXPECT_CONTAINS(error_of(with(llama(), {{"eos_token_id", -2}})), "eos_token_id");
  EXPECT_CONTAINS(error_of(with(llama(), {{"dtype", "float8_e4m3fn"}})),
                  "dtype: expected float32, bfloat16 or float16");
}

TEST(ModelConfig, MissingAndBrokenFilesAreNamed) {
  EXPECT_CONTAINS(usage_error([] { load_model_config("/nowhere/at/all"); }), "/nowhere/at/all");
  const TempDir dir;
  EXPECT_CONTAINS(usage_error([&] { load_model_config(dir.path()); }), "config.json: cannot be read");
  dir.write("config.json", "{\"vocab_size\": ");
  EXPECT_CONTAINS(usage_error([&] { load_model_config(dir.path()); }), "config.json: expected JSON");
  dir.write("config.json", "[1]");
  EXPECT_CONTAINS(usage_error([&] { load_model_config(dir.path()); }), "expected a JSON object, found array");
}

}  // namespace
}  // namespace penstock
