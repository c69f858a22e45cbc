// Rotary position embedding (Su et al. 2021, RoFormer) and its stretched variants: which angle each pair of a
// head's values turns by at each position. Computed on the host in float32, step by step as Hugging Face
// transformers 5.x does (modeling_rope_utils.py), so that the same checkpoint sees the same angles.
#pragma once

#include <cstdint>
#include <optional>
#include <variant>
#include <vector>

namespace penstock {

struct RopeDefault {};
/// Position interpolation (Chen et al. 2023): every angle divided by the factor.
struct RopeLinear {
  double factor = 1;
};
/// Llama 3.1: long wavelengths divided by the factor, short ones kept, a ramp between.
struct RopeLlama3 {
  double factor = 1;
  double low_freq_factor = 1;
  double high_freq_factor = 4;
  int64_t original_max_position_embeddings = 0;
};
/// YaRN (Peng et al. 2023): interpolation by parts, and cos/sin scaled by an attention factor.
struct RopeYarn {
  double factor = 1;
  int64_t original_max_position_embeddings = 0;
  double beta_fast = 32;
  double beta_slow = 1;
  std::optional<double> attention_factor;
  std::optional<double> mscale;
  std::optional<double> mscale_all_dim;
  bool truncate = true;
};

struct RopeConfig {
  double theta = 10000;
  int64_t rotary_dim = 0;  // leading part of a head that is rotated; even
  std::variant<RopeDefault, RopeLinear, RopeLlama3, RopeYarn> scaling;
  double softmax_factor = 1;  // what latent attention multiplies the scores by: latent_softmax_factor
};

/// What cos and sin are multiplied by: 1 except under yarn.
float rope_attention_factor(const RopeConfig& rope);

/// What DeepSeek multiplies the scores by under any kind of scaling: the square of the mscale that
/// mscale_all_dim gives, 1 where that is 0.
double latent_softmax_factor(double factor, double mscale_all_dim);

/// rotary_dim / 2 angles per unit of position.
std::vector<float> rope_inverse_frequencies(const RopeConfig& rope);

/// cos_sin_P2r of kernels/ops.h RotaryView: for each of `positions` positions r = rotary_dim / 2 cosines,
/// then r sines, times the attention factor.
std::vector<float> rope_table(const RopeConfig& rope, int64_t positions);

}  // namespace penstock
