#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "kernels/sampling.h"
#include "runtime/base/rng.h"

namespace penstock {
namespace {

constexpr float kNothing = -std::numeric_limits<float>::infinity();

std::vector<float> finite_or_nothing(std::span<const float> logits_V) {
  std::vector<float> clean(logits_V.begin(), logits_V.end());
  for (float& x : clean) {
    if (std::isnan(x)) x = kNothing;
    x = std::min(x, std::numeric_limits<float>::max());
  }
  return clean;
}

/// All ids, most likely first, the lower id first among equals.
std::vector<int32_t> ranking(const std::vector<float>& logits_V) {
  std::vector<int32_t> ids(logits_V.size());
  std::iota(ids.begin(), ids.end(), 0);
  std::stable_sort(ids.begin(), ids.end(), [&](int32_t a, int32_t b) {
    return logits_V[static_cast<size_t>(a)] > logits_V[static_cast<size_t>(b)];
  });
  return ids;
}

/// weight_V[id] = exp(score), 0 for ids that a filter removed.
std::vector<double> filtered_weights(const std::vector<float>& logits_V, const std::vector<int32_t>& ranked,
                                     const SampleParams& params) {
  const float largest = logits_V[static_cast<size_t>(ranked[0])];
  const auto score = [&](int32_t id) {
    return (logits_V[static_cast<size_t>(id)] - largest) / params.temperature;
  };
  std::vector<double> weight_V(logits_V.size());
  for (const int32_t id : ranked) {
    const double weight = std::exp(static_cast<double>(score(id)));
    weight_V[static_cast<size_t>(id)] =
        weight < static_cast<double>(std::min(params.min_p, 1.0F)) ? 0 : weight;
  }
  if (params.top_k > 0 && static_cast<size_t>(params.top_k) < ranked.size()) {
    const float kth = logits_V[static_cast<size_t>(ranked[static_cast<size_t>(params.top_k) - 1])];
    for (size_t id = 0; id < logits_V.size(); ++id)
      if (logits_V[id] < kth) weight_V[id] = 0;
  }
  if (params.top_p < 1) {
    const double whole = std::accumulate(weight_V.begin(), weight_V.end(), 0.0);
    double before = 0;
    for (const int32_t id : ranked) {
      double& weight = weight_V[static_cast<size_t>(id)];
      const double own = weight;
      if (before > 0 && before >= static_cast<double>(params.top_p) * whole) weight = 0;
      before += own;
    }
  }
  return weight_V;
}

int32_t draw(const std::vector<double>& weight_V, double u) {
  const double target = u * std::accumulate(weight_V.begin(), weight_V.end(), 0.0);
  double sum = 0;
  int32_t last = 0;
  for (size_t id = 0; id < weight_V.size(); ++id) {
    if (weight_V[id] == 0) continue;
    last = static_cast<int32_t>(id);
    sum += weight_V[id];
    if (sum > target) break;
  }
  return last;
}

}  // namespace

double uniform_for(const SampleParams& params) {
  const auto bits = philox(params.key, params.position);
  const uint64_t both = (static_cast<uint64_t>(bits[0]) << 32) | bits[1];
  return (static_cast<double>(both >> 12) + 0.5) * 0x1p-52;
}

void apply_rules(std::span<const float> logits_V, const SampleParams& params, std::vector<float>& to_V) {
  if (params.allowed.empty()) {
    to_V.assign(logits_V.begin(), logits_V.end());
  } else {
    to_V.assign(logits_V.size(), kNothing);
    for (const int32_t id : params.allowed) to_V[static_cast<size_t>(id)] = logits_V[static_cast<size_t>(id)];
  }
  for (const int32_t id : params.banned) to_V[static_cast<size_t>(id)] = kNothing;
  for (const LogitEdit& edit : params.edits) {
    float& x = to_V[static_cast<size_t>(edit.token)];
    const float biased = x + edit.add;
    x = (biased > 0 ? biased / edit.repeat : biased * edit.repeat) - edit.less;
  }
}

Sampled sample_row_reference(std::span<const float> logits_V, const SampleParams& params) {
  std::vector<float> ruled;
  apply_rules(logits_V, params, ruled);
  const std::vector<float> clean = finite_or_nothing(ruled);
  const std::vector<int32_t> ranked = ranking(clean);
  Sampled drawn;
  if (clean[static_cast<size_t>(ranked[0])] != kNothing)
    drawn.token =
        is_greedy(params) ? ranked[0] : draw(filtered_weights(clean, ranked, params), uniform_for(params));
  if (params.logprobs < 0) return drawn;
  Sampled scored = score_row_reference(logits_V, {drawn.token, params.logprobs});
  scored.rank = 0;
  return scored;
}

Sampled score_row_reference(std::span<const float> logits_V, const ScoreParams& params) {
  const std::vector<float> clean = finite_or_nothing(logits_V);
  const std::vector<int32_t> ranked = ranking(clean);
  const float largest = clean[static_cast<size_t>(ranked[0])];
  double sum = 0;
  for (const float x : clean) sum += std::exp(static_cast<double>(x) - static_cast<double>(largest));
  const auto logprob = [&](int32_t id) {
    return static_cast<float>(static_cast<double>(clean[static_cast<size_t>(id)]) -
                              static_cast<double>(largest) - std::log(sum));
  };
  const float given = clean[static_cast<size_t>(params.token)];
  Sampled result{params.token, logprob(params.token), {}, 0};
  result.rank = static_cast<int32_t>(
      std::count_if(clean.begin(), clean.end(), [given](float x) { return x >= given; }));
  const size_t wanted = std::min(static_cast<size_t>(params.logprobs), ranked.size());
  for (size_t i = 0; i < wanted; ++i) result.top.push_back({ranked[i], logprob(ranked[i])});
  return result;
}

}  // namespace penstock
