// What a Hugging Face model folder says of itself: config.json and generation_config.json, read once,
// checked, and brought into one spelling. Plain values; copy and share freely.
//
// Attention and MLP are variants so that another kind (latent attention, mixture of experts) is one more
// alternative here, one more file in stages/, and nothing else.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "runtime/device/tensor.h"
#include "runtime/model/rope.h"

namespace penstock {

/// Grouped-query attention (Ainslie et al. 2023): `heads` query heads share `kv_heads` KV heads.
struct GqaConfig {
  int64_t heads = 0;
  int64_t kv_heads = 0;  // divides heads
  int64_t head_dim = 0;
  bool qkv_bias = false;
  bool output_bias = false;
  bool qk_norm = false;  // RMS norm of each q and k head before rotation (Qwen3)
};
using AttentionConfig = std::variant<GqaConfig>;

/// down(silu(gate(x)) * up(x)), Shazeer 2020.
struct DenseMlpConfig {
  int64_t intermediate_size = 0;
  bool bias = false;
};
using MlpConfig = std::variant<DenseMlpConfig>;

struct LayerConfig {
  AttentionConfig attention;
  MlpConfig mlp;
};

struct ModelConfig {
  std::string architecture;  // "LlamaForCausalLM"
  int64_t vocab_size = 0;
  int64_t hidden_size = 0;
  int64_t max_position_embeddings = 0;
  float rms_norm_eps = 0;
  bool tie_word_embeddings = false;
  DType dtype = DType::f32;  // what the weights were published in
  RopeConfig rope;
  std::vector<LayerConfig> layers;

  std::vector<int32_t> eos_token_ids;  // generation_config.json first, then config.json; may be empty
  std::optional<int32_t> bos_token_id;

  int64_t layer_count() const { return static_cast<int64_t>(layers.size()); }
};

/// Reads MODEL_DIR/config.json and, if present, generation_config.json. Throws UsageError naming the file,
/// the field, what was expected and what was found; also for what is understood but not supported.
ModelConfig load_model_config(const std::filesystem::path& model_dir);

/// Longest sequence the model was made for: max_position_embeddings, times the factor under linear scaling
/// (position interpolation), and at least original_max_position_embeddings x factor under yarn.
int64_t default_max_model_len(const ModelConfig& config);

/// --dtype auto|float32|bfloat16. auto: bfloat16 for a bfloat16 checkpoint, else float32 (a float16
/// checkpoint keeps every bit in float32; ask for bfloat16 to halve the memory).
DType resolve_dtype(const std::string& flag, const ModelConfig& config);

}  // namespace penstock
