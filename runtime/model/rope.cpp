#include "runtime/model/rope.h"

#include <algorithm>
#include <cmath>
#include <numbers>

namespace penstock {
namespace {

/// theta^(2i / dim), in the roundings of torch: float32 exponent, float32 power.
std::vector<float> periods(const RopeConfig& rope) {
  std::vector<float> p(static_cast<size_t>(rope.rotary_dim / 2));
  for (size_t i = 0; i < p.size(); ++i) {
    const float exponent = static_cast<float>(2 * i) / static_cast<float>(rope.rotary_dim);
    p[i] = static_cast<float>(
        std::pow(static_cast<double>(static_cast<float>(rope.theta)), static_cast<double>(exponent)));
  }
  return p;
}

std::vector<float> scaled(const RopeConfig& rope, const RopeDefault&) {
  std::vector<float> f = periods(rope);
  for (float& x : f) x = 1.0F / x;
  return f;
}

std::vector<float> scaled(const RopeConfig& rope, const RopeLinear& linear) {
  std::vector<float> f = scaled(rope, RopeDefault{});
  for (float& x : f) x /= static_cast<float>(linear.factor);
  return f;
}

std::vector<float> scaled(const RopeConfig& rope, const RopeLlama3& llama3) {
  const auto factor = static_cast<float>(llama3.factor);
  const auto original = static_cast<double>(llama3.original_max_position_embeddings);
  const auto longest = static_cast<float>(original / llama3.low_freq_factor);
  const auto shortest = static_cast<float>(original / llama3.high_freq_factor);
  std::vector<float> f = scaled(rope, RopeDefault{});
  for (float& x : f) {
    const float wavelength = static_cast<float>(2 * std::numbers::pi) / x;
    if (wavelength > longest) {
      x /= factor;
    } else if (wavelength >= shortest) {
      const float smooth =
          (static_cast<float>(original) / wavelength - static_cast<float>(llama3.low_freq_factor)) /
          static_cast<float>(llama3.high_freq_factor - llama3.low_freq_factor);
      x = (1.0F - smooth) * x / factor + smooth * x;
    }
  }
  return f;
}

/// The (fractional) index of the pair that makes `rotations` turns over the original context; YaRN, appendix
/// A.2.
double correction_index(const RopeConfig& rope, const RopeYarn& yarn, double rotations) {
  const auto dim = static_cast<double>(rope.rotary_dim);
  return dim *
         std::log(static_cast<double>(yarn.original_max_position_embeddings) /
                  (rotations * 2 * std::numbers::pi)) /
         (2 * std::log(rope.theta));
}

std::vector<float> scaled(const RopeConfig& rope, const RopeYarn& yarn) {
  double low = correction_index(rope, yarn, yarn.beta_fast);
  double high = correction_index(rope, yarn, yarn.beta_slow);
  if (yarn.truncate) {
    low = std::floor(low);
    high = std::ceil(high);
  }
  low = std::max(low, 0.0);
  high = std::min(high, static_cast<double>(rope.rotary_dim - 1));
  if (low == high) high += 0.001;  // as the paper's code: a step instead of a division by zero

  std::vector<float> f = periods(rope);
  for (size_t i = 0; i < f.size(); ++i) {
    const float extrapolated = 1.0F / f[i];
    const float interpolated = 1.0F / (static_cast<float>(yarn.factor) * f[i]);
    const float ramp = std::clamp(
        (static_cast<float>(i) - static_cast<float>(low)) / static_cast<float>(high - low), 0.0F, 1.0F);
    const float keep = 1.0F - ramp;
    f[i] = interpolated * (1.0F - keep) + extrapolated * keep;
  }
  return f;
}

double yarn_mscale(double factor, double mscale) {
  return factor <= 1 ? 1.0 : 0.1 * mscale * std::log(factor) + 1.0;
}

}  // namespace

float rope_attention_factor(const RopeConfig& rope) {
  const auto* yarn = std::get_if<RopeYarn>(&rope.scaling);
  if (yarn == nullptr) return 1.0F;
  if (yarn->attention_factor) return static_cast<float>(*yarn->attention_factor);
  // DeepSeek's pair of mscales counts only when both are there and not zero.
  const double mscale = yarn->mscale.value_or(0);
  const double all_dim = yarn->mscale_all_dim.value_or(0);
  if (mscale != 0 && all_dim != 0)
    return static_cast<float>(yarn_mscale(yarn->factor, mscale) / yarn_mscale(yarn->factor, all_dim));
  return static_cast<float>(yarn_mscale(yarn->factor, 1));
}

double latent_softmax_factor(double factor, double mscale_all_dim) {
  if (mscale_all_dim == 0) return 1;
  const double mscale = yarn_mscale(factor, mscale_all_dim);
  return mscale * mscale;
}

std::vector<float> rope_inverse_frequencies(const RopeConfig& rope) {
  return std::visit([&](const auto& scaling) { return scaled(rope, scaling); }, rope.scaling);
}

std::vector<float> rope_table(const RopeConfig& rope, int64_t positions) {
  const std::vector<float> frequency = rope_inverse_frequencies(rope);
  const float factor = rope_attention_factor(rope);
  const size_t r = frequency.size();
  std::vector<float> table(static_cast<size_t>(positions) * 2 * r);
  for (size_t p = 0; p < static_cast<size_t>(positions); ++p) {
    float* cosines = table.data() + p * 2 * r;
    for (size_t i = 0; i < r; ++i) {
      // The angle is rounded to float32 as in the reference; its cosine is taken exactly.
      const auto angle = static_cast<double>(static_cast<float>(p) * frequency[i]);
      cosines[i] = static_cast<float>(std::cos(angle)) * factor;
      cosines[r + i] = static_cast<float>(std::sin(angle)) * factor;
    }
  }
  return table;
}

}  // namespace penstock
