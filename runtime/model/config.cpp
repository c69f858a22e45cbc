#include "runtime/model/config.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <nlohmann/json.hpp>

#include "runtime/base/error.h"
#include "runtime/base/json_file.h"
#include "runtime/model/config_fields.h"
#include "runtime/model/deepseek_config.h"

namespace penstock {
namespace {

using Json = nlohmann::json;
namespace fs = std::filesystem;

/// What differs between the architectures that share the llama shape. Defaults are those of transformers'
/// configuration classes for a field that config.json leaves out.
struct Family {
  const char* architecture;
  const char* model_type;
  int64_t default_kv_heads;  // 0: as many as query heads
  int64_t default_head_dim;  // 0: hidden_size / num_attention_heads
  int64_t default_max_position_embeddings;
  bool reads_attention_bias;
  bool always_qkv_bias;
  bool reads_mlp_bias;
  bool qk_norm;
  /// How a sliding window is switched on: never, by sliding_window alone, or by use_sliding_window as well.
  enum class Window { none, plain, switched } window;
  bool latent_attention = false;  // and a mixture of experts: deepseek_config.h
};

constexpr Family kFamilies[] = {
    {"LlamaForCausalLM", "llama", 0, 0, 2048, true, false, true, false, Family::Window::none},
    {"MistralForCausalLM", "mistral", 8, 0, 131072, false, false, false, false, Family::Window::plain},
    {"Qwen2ForCausalLM", "qwen2", 32, 0, 32768, false, true, false, false, Family::Window::switched},
    {"Qwen3ForCausalLM", "qwen3", 32, 128, 32768, true, false, false, true, Family::Window::switched},
    {"DeepseekV2ForCausalLM", "deepseek_v2", 0, 0, 2048, true, false, true, false, Family::Window::none,
     true},
    {"DeepseekV3ForCausalLM", "deepseek_v3", 0, 0, 4096, true, false, false, false, Family::Window::none,
     true},
};

const Family& family_of(const Fields& config) {
  const std::string model_type = config.text("model_type", "");
  std::string architecture;
  if (const Json* list = config.find("architectures")) {
    if (!list->is_array() || list->empty() || !list->front().is_string())
      config.wrong("architectures", "a list of one name");
    architecture = list->front().get<std::string>();
  }
  std::string supported;
  for (const Family& f : kFamilies) {
    if (architecture.empty() ? model_type == f.model_type : architecture == f.architecture) return f;
    supported += std::string(supported.empty() ? "" : ", ") + f.architecture;
  }
  const std::string found =
      architecture.empty() ? "model_type '" + model_type + "'" : "'" + architecture + "'";
  throw UsageError(config.where() + ": architecture " + found + " is not supported; supported are " +
                   supported);
}

DType published_dtype(const Fields& config) {
  const char* name = config.has("dtype") ? "dtype" : "torch_dtype";
  std::string text = config.text(name, "float32");
  if (text.starts_with("torch.")) text = text.substr(6);
  for (const DType d : {DType::f32, DType::bf16, DType::f16})
    if (text == name_of(d)) return d;
  config.wrong(name, "float32, bfloat16 or float16");
}

void refuse_sliding_window(const Fields& config, Family::Window kind, int64_t layers, int64_t max_positions) {
  if (kind == Family::Window::none) return;
  if (kind == Family::Window::switched && !config.flag("use_sliding_window", false)) return;
  // Written as null, a window is off; left out, transformers assumes 4096.
  const auto it = config.json().find("sliding_window");
  if (it != config.json().end() && it->is_null()) return;
  const int64_t window = config.integer("sliding_window", 1, std::numeric_limits<int64_t>::max(), 4096);
  if (window >= max_positions) return;
  if (kind == Family::Window::switched) {
    const Json* types = config.find("layer_types");
    const bool any = types != nullptr
                         ? std::find(types->begin(), types->end(), "sliding_attention") != types->end()
                         : config.integer("max_window_layers", 0, kWidest, 28) < layers;
    if (!any) return;
  }
  throw UsageError(config.where() + ": sliding window attention (sliding_window " + std::to_string(window) +
                   ") is not supported; expected sliding_window null, or use_sliding_window false");
}

RopeConfig rope_of(const Fields& config, int64_t head_dim, int64_t max_positions) {
  static const Json kNone = Json::object();
  const Json* object = config.find("rope_scaling");
  if (object == nullptr || object->empty()) object = config.find("rope_parameters");
  const Fields rope(
      object == nullptr ? kNone : *object,
      config.where() + ": " + (config.has("rope_parameters") ? "rope_parameters" : "rope_scaling"));
  for (const auto& [key, value] : rope.json().items())
    if (value.is_object())
      throw UsageError(rope.where() +
                       ": one set of parameters for every layer is supported, found one for '" + key + "'");

  RopeConfig out;
  out.theta =
      rope.number("rope_theta", 1, kLargestNumber, config.number("rope_theta", 1, kLargestNumber, 10000.0));
  const double part =
      rope.number("partial_rotary_factor", 0, 1, config.number("partial_rotary_factor", 0, 1, 1.0));
  out.rotary_dim = static_cast<int64_t>(static_cast<double>(head_dim) * part);
  if (out.rotary_dim < 2 || out.rotary_dim % 2 != 0)
    throw UsageError(config.where() + ": expected an even number of rotated values a head, found " +
                     std::to_string(out.rotary_dim) + " (head_dim " + std::to_string(head_dim) +
                     ", partial_rotary_factor " + Json(part).dump() + ")");

  const std::string type = rope.text("rope_type", rope.text("type", "default"));
  const int64_t original =
      config.integer("original_max_position_embeddings", 1, kMostTokens,
                     rope.integer("original_max_position_embeddings", 1, kMostTokens, max_positions));
  const auto factor = [&](std::optional<double> otherwise = {}) {
    return rope.number("factor", 0, 1e6, otherwise);
  };
  const double stretch = static_cast<double>(max_positions) / static_cast<double>(original);
  if (type != "default")
    if (const std::optional<double> all_dim = rope.optional_number("mscale_all_dim", -1e6, 1e6))
      out.softmax_factor = latent_softmax_factor(factor(stretch), *all_dim);
  if (type == "default") {
    out.scaling = RopeDefault{};
  } else if (type == "linear") {
    out.scaling = RopeLinear{factor()};
  } else if (type == "llama3") {
    const RopeLlama3 llama3{factor(), rope.number("low_freq_factor", 0, 1e6),
                            rope.number("high_freq_factor", 0, 1e6), original};
    if (llama3.high_freq_factor <= llama3.low_freq_factor)
      rope.wrong("high_freq_factor", "more than low_freq_factor");
    out.scaling = llama3;
  } else if (type == "yarn") {
    RopeYarn yarn;
    yarn.original_max_position_embeddings = original;
    yarn.factor = factor(stretch);
    yarn.beta_fast = rope.number("beta_fast", 0, 1e6, 32.0);
    yarn.beta_slow = rope.number("beta_slow", 0, 1e6, 1.0);
    yarn.attention_factor = rope.optional_number("attention_factor", 0, 1e6);
    yarn.mscale = rope.optional_number("mscale", -1e6, 1e6);
    yarn.mscale_all_dim = rope.optional_number("mscale_all_dim", -1e6, 1e6);
    yarn.truncate = rope.flag("truncate", true);
    out.scaling = yarn;
  } else {
    throw UsageError(rope.where() + ": rope type '" + type +
                     "' is not supported; supported are default, linear, llama3, yarn");
  }
  return out;
}

int32_t token_id(const Fields& fields, const char* name, const Json& value) {
  if (!value.is_number_integer() || value < 0 || value > std::numeric_limits<int32_t>::max())
    fields.wrong(name, "token ids (integers from 0)");
  return value.get<int32_t>();
}

std::vector<int32_t> token_ids(const Fields& fields, const char* name) {
  const Json* value = fields.find(name);
  if (value == nullptr) return {};
  std::vector<int32_t> ids;
  if (!value->is_array()) return {token_id(fields, name, *value)};
  for (const Json& id : *value) ids.push_back(token_id(fields, name, id));
  return ids;
}

void read_special_tokens(ModelConfig& out, const Fields& fields) {
  if (out.eos_token_ids.empty()) out.eos_token_ids = token_ids(fields, "eos_token_id");
  const Json* bos = fields.find("bos_token_id");
  if (!out.bos_token_id && bos != nullptr) out.bos_token_id = token_id(fields, "bos_token_id", *bos);
}

/// Grouped-query attention and a dense MLP, the same in every layer.
void read_llama_layers(ModelConfig& out, const Fields& config, const Family& family, int64_t layers) {
  GqaConfig attention;
  attention.heads = config.integer("num_attention_heads", 1, kWidest);
  const int64_t default_kv_heads =
      family.default_kv_heads == 0 || config.json().contains("num_key_value_heads") ? attention.heads
                                                                                    : family.default_kv_heads;
  attention.kv_heads = config.integer("num_key_value_heads", 1, attention.heads, default_kv_heads);
  if (attention.heads % attention.kv_heads != 0)
    config.wrong("num_key_value_heads",
                 "a divisor of num_attention_heads (" + std::to_string(attention.heads) + ")");
  constexpr int64_t kWidestHead = 4096;
  attention.head_dim = config.integer(
      "head_dim", 1, kWidestHead,
      family.default_head_dim != 0 ? family.default_head_dim : out.hidden_size / attention.heads);
  if (attention.head_dim < 1 || attention.heads * attention.head_dim > kWidest)
    throw UsageError(config.where() + ": expected num_attention_heads x head_dim from 1 to " +
                     std::to_string(kWidest) + ", found " + std::to_string(attention.heads) + " x " +
                     std::to_string(attention.head_dim));
  const bool bias = family.reads_attention_bias && config.flag("attention_bias", false);
  attention.qkv_bias = bias || family.always_qkv_bias;
  attention.output_bias = bias;
  attention.qk_norm = family.qk_norm;

  const DenseMlpConfig mlp{config.integer("intermediate_size", 1, kWidest),
                           family.reads_mlp_bias && config.flag("mlp_bias", false)};
  out.layers.assign(static_cast<size_t>(layers), LayerConfig{attention, mlp});
  refuse_sliding_window(config, family.window, layers, out.max_position_embeddings);
  out.rope = rope_of(config, attention.head_dim, out.max_position_embeddings);
}

/// quantization_config: nothing, or FP8 in blocks.
std::optional<Fp8Blocks> fp8_of(const Fields& config) {
  const Json* object = config.find("quantization_config");
  if (object == nullptr) return std::nullopt;
  const Fields quantization(*object, config.where() + ": quantization_config");
  const std::string method = quantization.text("quant_method", "?");
  if (method != "fp8")
    throw UsageError(config.where() + ": quantization_config (" + method +
                     ") is not supported; expected a checkpoint in float32, bfloat16, float16 or fp8");
  if (quantization.text("fmt", "e4m3") != "e4m3") quantization.wrong("fmt", "\"e4m3\"");
  const Json* block = quantization.find("weight_block_size");
  if (block == nullptr || !block->is_array() || block->size() != 2 || !(*block)[0].is_number_unsigned() ||
      !(*block)[1].is_number_unsigned() || (*block)[0] < 1 || (*block)[0] > kWidest || (*block)[1] < 1 ||
      (*block)[1] > kWidest)
    quantization.wrong("weight_block_size", "two counts, as [128, 128]");
  return Fp8Blocks{(*block)[0].get<int64_t>(), (*block)[1].get<int64_t>()};
}

}  // namespace

ModelConfig load_model_config(const fs::path& model_dir) {
  std::error_code ignored;
  if (!fs::is_directory(model_dir, ignored))
    throw UsageError("--model: expected a folder with config.json and safetensors, found no folder at " +
                     model_dir.string());
  const fs::path path = model_dir / "config.json";
  const Json json = read_json_file(path);
  const Fields config(json, path.string());

  const Family& family = family_of(config);

  ModelConfig out;
  out.architecture = family.architecture;
  out.vocab_size = config.integer("vocab_size", 1, kMostTokens);
  out.hidden_size = config.integer("hidden_size", 1, kWidest);
  out.max_position_embeddings =
      config.integer("max_position_embeddings", 1, kMostTokens, family.default_max_position_embeddings);
  out.rms_norm_eps = static_cast<float>(config.number("rms_norm_eps", 0, 1, 1e-6));
  out.tie_word_embeddings = config.flag("tie_word_embeddings", false);
  out.dtype = published_dtype(config);
  out.fp8 = fp8_of(config);
  if (config.text("hidden_act", "silu") != "silu") config.wrong("hidden_act", "\"silu\"");

  const int64_t layers = config.integer("num_hidden_layers", 1, kMostLayers);
  if (family.latent_attention) {
    read_deepseek_layers(out, config, layers, family.reads_mlp_bias);
    out.rope = rope_of(config, std::get<MlaConfig>(out.layers.front().attention).qk_rope_head_dim,
                       out.max_position_embeddings);
    set_latent_scale(out);
  } else {
    read_llama_layers(out, config, family, layers);
  }

  const fs::path generation_path = model_dir / "generation_config.json";
  if (fs::exists(generation_path, ignored)) {
    const Json generation = read_json_file(generation_path);
    read_special_tokens(out, Fields(generation, generation_path.string()));
  }
  read_special_tokens(out, config);
  return out;
}

int64_t default_max_model_len(const ModelConfig& config) {
  const auto stretched = [](int64_t positions, double factor) {
    return static_cast<int64_t>(std::floor(static_cast<double>(positions) * factor));
  };
  const int64_t trained = config.max_position_embeddings;
  if (const auto* linear = std::get_if<RopeLinear>(&config.rope.scaling))
    return std::max(trained, stretched(trained, linear->factor));
  if (const auto* yarn = std::get_if<RopeYarn>(&config.rope.scaling))
    return std::max(trained, stretched(yarn->original_max_position_embeddings, yarn->factor));
  return trained;
}

DType resolve_dtype(const std::string& flag, const ModelConfig& config) {
  if (flag == "auto") return config.dtype == DType::bf16 ? DType::bf16 : DType::f32;
  if (flag == "float32" || flag == "float") return DType::f32;
  if (flag == "bfloat16") return DType::bf16;
  throw UsageError("--dtype: expected auto, float32 or bfloat16, found '" + flag + "'");
}

}  // namespace penstock
