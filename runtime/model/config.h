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
#include "runtime/model/fp8.h"
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
/// Multi-head latent attention (DeepSeek-V2, 2024): K and V of all heads come from one latent a token, which
/// is what the cache holds, beside one rotated key that all heads share.
struct MlaConfig {
  int64_t heads = 0;
  int64_t q_lora_rank = 0;  // 0: q comes from the hidden state directly
  int64_t kv_lora_rank = 0;
  int64_t qk_nope_head_dim = 0;
  int64_t qk_rope_head_dim = 0;
  int64_t v_head_dim = 0;
  bool rope_interleave = true;  // pairs (2i, 2i + 1) are rotated, not (i, i + half)
  bool bias = false;            // of the projections into the latents and of the output
  float softmax_scale = 0;      // with yarn's mscale
};
using AttentionConfig = std::variant<GqaConfig, MlaConfig>;

/// down(silu(gate(x)) * up(x)), Shazeer 2020.
struct DenseMlpConfig {
  int64_t intermediate_size = 0;
  bool bias = false;
};

/// How a token chooses its experts from the gate's scores.
struct GateConfig {
  enum class Score { softmax, sigmoid } score = Score::softmax;
  int64_t experts = 0;
  int64_t experts_per_token = 0;
  int64_t groups = 1;       // divides experts
  int64_t groups_kept = 1;  // experts of the other groups are not chosen
  /// What a group is worth: its best expert (group_limited_greedy), or its two best together (noaux_tc).
  bool two_best = false;
  bool correction_bias = false;  // added to the scores for choosing, not for weighing (noaux_tc)
  bool normalise = false;        // the chosen scores are divided by their sum
  float scale = 1;               // routed_scaling_factor
};

/// Mixture of experts (DeepSeekMoE, 2024): the chosen experts' MLPs, weighted, plus one that every token
/// takes.
struct MoeConfig {
  GateConfig gate;
  int64_t intermediate_size = 0;         // of one expert
  int64_t shared_intermediate_size = 0;  // 0: no shared expert
  bool shared_bias = false;
};
using MlpConfig = std::variant<DenseMlpConfig, MoeConfig>;

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
  DType dtype = DType::f32;      // what the weights were published in
  std::optional<Fp8Blocks> fp8;  // most of the layers' matrices are kept in FP8
  RopeConfig rope;
  std::vector<LayerConfig> layers;

  std::vector<int32_t> eos_token_ids;  // generation_config.json first, then config.json; may be empty
  std::optional<int32_t> bos_token_id;

  std::vector<std::string> notes;  // what of the checkpoint is left aside: worth one line of the log each

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
