#include "kernels/cpu/sample.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>
#include <numeric>

#include "kernels/sampling.h"

namespace penstock::cpu {
namespace {

constexpr float kNothing = -std::numeric_limits<float>::infinity();

// Weights lie in [0, 1], so their bits are ordered as they are and the two highest are 0: three digits of
// ten.
constexpr int kDigits = 3;
constexpr int kDigitBits = 10;
constexpr uint32_t kDigitMask = (1U << kDigitBits) - 1;

uint32_t bits_of(float weight) {
  return std::bit_cast<uint32_t>(weight);
}

size_t blocks_of(size_t n) {
  return (n + kSampleBlock - 1) / kSampleBlock;
}

}  // namespace

std::span<const float> RowSampler::look_at(std::span<const float> logits_V) {
  maxima_.resize(blocks_of(logits_V.size()));
  finite_ = kernels_.block_maxima(maxima_.data(), logits_V.data(), static_cast<int64_t>(logits_V.size()));
  if (!finite_) {
    clean_.assign(logits_V.begin(), logits_V.end());
    for (float& x : clean_) x = std::isnan(x) ? kNothing : std::min(x, std::numeric_limits<float>::max());
    logits_V = clean_;
    kernels_.block_maxima(maxima_.data(), logits_V.data(), static_cast<int64_t>(logits_V.size()));
  }
  largest_ = *std::max_element(maxima_.begin(), maxima_.end());
  return logits_V;
}

Sampled RowSampler::operator()(std::span<const float> logits_V, const SampleParams& params) {
  const bool rules = params.has_rules();
  if (rules) apply_rules(logits_V, params, ruled_);
  std::span<const float> row_V = look_at(rules ? std::span<const float>(ruled_) : logits_V);
  Sampled sampled;
  sampled.finite = finite_;
  if (largest_ != kNothing)
    sampled.token = is_greedy(params) ? first_of(row_V, largest_) : draw(row_V, largest_, params);
  if (params.logprobs < 0) return sampled;
  if (rules) row_V = look_at(logits_V);
  add_logprobs(sampled, row_V, largest_, params.logprobs);
  return sampled;
}

Sampled RowSampler::operator()(std::span<const float> logits_V, const ScoreParams& params) {
  logits_V = look_at(logits_V);
  Sampled scored;
  scored.token = params.token;
  add_logprobs(scored, logits_V, largest_, params.logprobs);
  const float given = logits_V[static_cast<size_t>(params.token)];
  scored.rank = static_cast<int32_t>(
      std::count_if(logits_V.begin(), logits_V.end(), [given](float x) { return x >= given; }));
  return scored;
}

int32_t RowSampler::first_of(std::span<const float> logits_V, float value) const {
  const auto block = std::find(maxima_.begin(), maxima_.end(), value) - maxima_.begin();
  return static_cast<int32_t>(std::find(logits_V.begin() + block * kSampleBlock, logits_V.end(), value) -
                              logits_V.begin());
}

/// The k largest logits and all equals of the k-th, in the order of ids.
void RowSampler::gather_top(std::span<const float> logits_V, size_t k) {
  k = std::min(k, logits_V.size());
  // k blocks hold a value of at least the k-th largest maximum, so the k-th largest logit is no smaller.
  float bound = kNothing;
  const auto kth_largest = [k](std::vector<float>& values) {
    const auto kth = values.begin() + static_cast<std::ptrdiff_t>(k) - 1;
    std::nth_element(values.begin(), kth, values.end(), std::greater<>());
    return *kth;
  };
  if (maxima_.size() >= k) {
    bounds_ = maxima_;
    bound = kth_largest(bounds_);
  }
  top_values_.clear();
  top_ids_.clear();
  for (size_t b = 0; b < maxima_.size(); ++b) {
    if (maxima_[b] < bound) continue;
    for (size_t id = b * kSampleBlock; id < std::min(logits_V.size(), (b + 1) * kSampleBlock); ++id)
      if (logits_V[id] >= bound) {
        top_values_.push_back(logits_V[id]);
        top_ids_.push_back(static_cast<int32_t>(id));
      }
  }
  bounds_ = top_values_;
  bound = kth_largest(bounds_);
  size_t kept = 0;
  for (size_t i = 0; i < top_values_.size(); ++i)
    if (top_values_[i] >= bound) {
      top_values_[kept] = top_values_[i];
      top_ids_[kept++] = top_ids_[i];
    }
  top_values_.resize(kept);
  top_ids_.resize(kept);
}

double RowSampler::weigh(std::span<const float> x, float largest, float temperature, float min_p) {
  weights_.resize(x.size());
  sums_.resize(blocks_of(x.size()));
  kernels_.weights(weights_.data(), sums_.data(), x.data(), static_cast<int64_t>(x.size()), largest,
                   temperature, min_p);
  return std::accumulate(sums_.begin(), sums_.end(), 0.0);
}

/// The smallest weight of the smallest set of largest ones whose sum reaches p of the whole, found digit by
/// digit: sums of all weights with the same leading digits tell where the target falls. Leaves the places of
/// the weights equal to it in `ties_`.
RowSampler::Nucleus RowSampler::find_nucleus(float p) {
  // Four sums a digit, taken in turn: with one, each addition would wait for the one before.
  constexpr size_t kLanes = 4;
  Nucleus nucleus;
  ties_.resize(weights_.size());
  std::iota(ties_.begin(), ties_.end(), 0);
  uint32_t lowest = 0;
  for (int digit = 0; digit < kDigits; ++digit) {
    const int shift = kDigitBits * (kDigits - 1 - digit);
    const auto value_of = [&](int32_t i) {
      return bits_of(weights_[static_cast<size_t>(i)]) >> shift & kDigitMask;
    };
    digit_sums_.assign(kLanes * (kDigitMask + 1), 0);
    for (size_t i = 0; i < ties_.size(); ++i)
      digit_sums_[value_of(ties_[i]) * kLanes + i % kLanes] +=
          static_cast<double>(weights_[static_cast<size_t>(ties_[i])]);
    const auto sum_of = [&](uint32_t value) {
      const double* sums = digit_sums_.data() + value * kLanes;
      return (sums[0] + sums[1]) + (sums[2] + sums[3]);
    };
    if (digit == 0)
      for (uint32_t value = 0; value <= kDigitMask; ++value) nucleus.target += sum_of(value);
    if (digit == 0) nucleus.target *= static_cast<double>(p);
    uint32_t value = kDigitMask;
    for (; value > 0; --value) {
      const double sum = sum_of(value);
      if (sum > 0 && nucleus.above + sum >= nucleus.target) break;
      nucleus.above += sum;
    }
    std::erase_if(ties_, [&](int32_t i) { return value_of(i) != value; });
    lowest = lowest << kDigitBits | value;
  }
  nucleus.lowest = std::bit_cast<float>(lowest);
  return nucleus;
}

/// Of the weights equal to the smallest one kept, those with the lower ids stay: as many as the sum needs, at
/// least one weight in all.
void RowSampler::drop_spare_ties(const Nucleus& nucleus) {
  double above = nucleus.above;
  for (const int32_t i : ties_) {
    if (above == 0 || above < nucleus.target) {
      above += static_cast<double>(nucleus.lowest);
      continue;
    }
    weights_[static_cast<size_t>(i)] = 0;
    const auto block = static_cast<size_t>(i) / kSampleBlock;
    const size_t end = std::min(weights_.size(), (block + 1) * kSampleBlock);
    float sum = 0;
    for (size_t at = block * kSampleBlock; at < end; ++at) sum += weights_[at];
    sums_[block] = sum;
  }
}

int32_t RowSampler::draw(std::span<const float> logits_V, float largest, const SampleParams& params) {
  const bool some = params.top_k > 0 && static_cast<size_t>(params.top_k) < logits_V.size();
  if (some) gather_top(logits_V, static_cast<size_t>(params.top_k));
  const std::span<const float> scored = some ? std::span<const float>(top_values_) : logits_V;
  const float least = std::min(params.min_p, 1.0F);
  double whole = weigh(scored, largest, params.temperature, least);
  if (params.top_p < 1) {
    const Nucleus nucleus = find_nucleus(params.top_p);
    weigh(scored, largest, params.temperature, std::max(nucleus.lowest, least));
    drop_spare_ties(nucleus);
    whole = std::accumulate(sums_.begin(), sums_.end(), 0.0);
  }

  const double target = uniform_for(params) * whole;
  double sum = 0;
  size_t block = 0;
  size_t last_filled = 0;
  for (; block < sums_.size(); ++block) {
    if (sums_[block] > 0) last_filled = block;
    if (sum + static_cast<double>(sums_[block]) > target) break;
    sum += static_cast<double>(sums_[block]);
  }
  if (block == sums_.size()) block = last_filled;  // the last sum may round just below the target
  size_t chosen = 0;
  for (size_t i = block * kSampleBlock; i < std::min(weights_.size(), (block + 1) * kSampleBlock); ++i) {
    if (weights_[i] == 0) continue;
    chosen = i;
    sum += static_cast<double>(weights_[i]);
    if (sum > target) break;
  }
  return some ? top_ids_[chosen] : static_cast<int32_t>(chosen);
}

void RowSampler::add_logprobs(Sampled& sampled, std::span<const float> logits_V, float largest,
                              int32_t alternatives) {
  const double log_sum = std::log(weigh(logits_V, largest, 1, 0));
  const auto logprob = [&](float logit) {
    return static_cast<float>(static_cast<double>(logit) - static_cast<double>(largest) - log_sum);
  };
  sampled.logprob = logprob(logits_V[static_cast<size_t>(sampled.token)]);
  if (alternatives == 0) return;
  gather_top(logits_V, static_cast<size_t>(alternatives));
  for (size_t i = 0; i < top_ids_.size(); ++i) sampled.top.push_back({top_ids_[i], top_values_[i]});
  std::stable_sort(sampled.top.begin(), sampled.top.end(),
                   [](const TokenLogprob& a, const TokenLogprob& b) { return a.logprob > b.logprob; });
  sampled.top.resize(std::min(sampled.top.size(), static_cast<size_t>(alternatives)));
  for (TokenLogprob& t : sampled.top) t.logprob = logprob(t.logprob);
}

}  // namespace penstock::cpu
