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

// Weights lie in [0, 1]; their exponent and three bits of their fraction are the bucket.
constexpr int kBucketShift = 20;
constexpr size_t kBuckets = (std::bit_cast<uint32_t>(1.0F) >> kBucketShift) + 1;

size_t bucket_of(float weight) {
  return std::bit_cast<uint32_t>(weight) >> kBucketShift;
}

size_t blocks_of(size_t n) {
  return (n + kSampleBlock - 1) / kSampleBlock;
}

}  // namespace

Sampled RowSampler::operator()(std::span<const float> logits_V, const SampleParams& params) {
  maxima_.resize(blocks_of(logits_V.size()));
  if (!kernels_.block_maxima(maxima_.data(), logits_V.data(), static_cast<int64_t>(logits_V.size()))) {
    clean_.assign(logits_V.begin(), logits_V.end());
    for (float& x : clean_) x = std::isnan(x) ? kNothing : std::min(x, std::numeric_limits<float>::max());
    logits_V = clean_;
    kernels_.block_maxima(maxima_.data(), logits_V.data(), static_cast<int64_t>(logits_V.size()));
  }
  const float largest = *std::max_element(maxima_.begin(), maxima_.end());
  Sampled sampled;
  if (largest != kNothing)
    sampled.token = is_greedy(params) ? first_of(logits_V, largest) : draw(logits_V, largest, params);
  if (params.logprobs >= 0) add_logprobs(sampled, logits_V, largest, params.logprobs);
  return sampled;
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

/// Clears the weights outside the smallest set of largest ones whose sum reaches p. Buckets of nearly equal
/// weights find the place; only the bucket it falls into is sorted.
void RowSampler::keep_nucleus(float p) {
  bucket_sums_.assign(kBuckets, 0);
  for (const float w : weights_) bucket_sums_[bucket_of(w)] += static_cast<double>(w);
  const double target =
      static_cast<double>(p) * std::accumulate(bucket_sums_.begin(), bucket_sums_.end(), 0.0);
  size_t last = kBuckets - 1;
  double before = 0;
  while (last > 0 && before + bucket_sums_[last] < target) before += bucket_sums_[last--];

  bucket_.clear();
  for (size_t i = 0; i < weights_.size(); ++i)
    if (bucket_of(weights_[i]) == last) bucket_.push_back(static_cast<int32_t>(i));
  const auto weight = [this](int32_t i) { return weights_[static_cast<size_t>(i)]; };
  std::sort(bucket_.begin(), bucket_.end(),
            [&](int32_t a, int32_t b) { return weight(a) != weight(b) ? weight(a) > weight(b) : a < b; });
  for (const int32_t i : bucket_) {
    const auto own = static_cast<double>(weight(i));
    if (before > 0 && before >= target) weights_[static_cast<size_t>(i)] = 0;
    before += own;
  }
  for (size_t b = 0; b < sums_.size(); ++b) {
    float sum = 0;
    for (size_t i = b * kSampleBlock; i < std::min(weights_.size(), (b + 1) * kSampleBlock); ++i) {
      if (bucket_of(weights_[i]) < last) weights_[i] = 0;
      sum += weights_[i];
    }
    sums_[b] = sum;
  }
}

int32_t RowSampler::draw(std::span<const float> logits_V, float largest, const SampleParams& params) {
  const bool some = params.top_k > 0 && static_cast<size_t>(params.top_k) < logits_V.size();
  if (some) gather_top(logits_V, static_cast<size_t>(params.top_k));
  double whole = weigh(some ? std::span<const float>(top_values_) : logits_V, largest, params.temperature,
                       std::min(params.min_p, 1.0F));
  if (params.top_p < 1) {
    keep_nucleus(params.top_p);
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
