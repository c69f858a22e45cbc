#include "kernels/cpu/reference_latent.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "kernels/cpu/latent_layout.h"
#include "kernels/cpu/number.h"
#include "kernels/cpu/reference_cache.h"

namespace penstock::cpu {
namespace {

/// Of r values, pairs rotated by the angles of `position`; the result is [first of each pair, second of
/// each].
std::vector<float> rotated(const float* x_r, int64_t r, const LatentRotaryView& rotary, int64_t position) {
  const int64_t half = r / 2;
  const float* cos_r = rotary.cos_sin_P2r.as<const float>() + position * r;
  std::vector<float> out(static_cast<size_t>(r));
  for (int64_t i = 0; i < half; ++i) {
    const float a = rotary.interleave ? x_r[2 * i] : x_r[i];
    const float b = rotary.interleave ? x_r[2 * i + 1] : x_r[i + half];
    out[static_cast<size_t>(i)] = a * cos_r[i] - b * cos_r[half + i];
    out[static_cast<size_t>(half + i)] = b * cos_r[i] + a * cos_r[half + i];
  }
  return out;
}

/// Numbers from 0 to n - 1, those of the greatest value first, equal ones by lower number; `keep` of them.
std::vector<int64_t> best(const std::vector<double>& values, int64_t keep) {
  std::vector<int64_t> order(values.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](int64_t a, int64_t b) {
    return values[static_cast<size_t>(a)] > values[static_cast<size_t>(b)];
  });
  order.resize(static_cast<size_t>(keep));
  return order;
}

std::vector<double> scores_of(const float* logits_E, int64_t experts, bool sigmoid) {
  std::vector<double> scores(logits_E, logits_E + experts);
  const double largest = *std::max_element(scores.begin(), scores.end());
  for (double& s : scores) s = sigmoid ? 1 / (1 + std::exp(-s)) : std::exp(s - largest);
  const double sum = sigmoid ? 1 : std::accumulate(scores.begin(), scores.end(), 0.0);
  for (double& s : scores) s /= sum;
  return scores;
}

/// 0 for experts outside the best groups, as transformers has it.
void mask_groups(std::vector<double>& choice, const GateView& gate) {
  const size_t size = choice.size() / static_cast<size_t>(gate.groups);
  std::vector<double> worth;
  for (size_t first = 0; first < choice.size(); first += size) {
    const auto begin = choice.begin() + static_cast<std::ptrdiff_t>(first);
    std::vector<double> group(begin, begin + static_cast<std::ptrdiff_t>(size));
    std::sort(group.rbegin(), group.rend());
    worth.push_back(gate.two_best && size > 1 ? group[0] + group[1] : group[0]);
  }
  const std::vector<int64_t> kept = best(worth, gate.groups_kept);
  for (size_t e = 0; e < choice.size(); ++e)
    if (std::find(kept.begin(), kept.end(), static_cast<int64_t>(e / size)) == kept.end()) choice[e] = 0;
}

}  // namespace

void reference_latent_rope_and_store(const LatentShape& shape, const TensorView& q_THd,
                                     const TensorView& plain_THn, const LatentCacheView& cache,
                                     const TensorView& q_THe, const TensorView& latent_TL,
                                     const LatentRotaryView& rotary, const BatchView& batch) {
  const auto [h, n, l, r] = shape;
  const LatentLayout layout(cache);
  for (int64_t t = 0; t < batch.tokens; ++t) {
    const int64_t position = batch.positions_T[t];
    for (int64_t j = t * h; j < (t + 1) * h; ++j) {
      const float* q_e = q_THe.as<const float>() + j * (n + r);
      for (int64_t i = 0; i < n; ++i) write(plain_THn.data, plain_THn.dtype, j * n + i, q_e[i]);
      const std::vector<float> turned = rotated(q_e + n, r, rotary, position);
      std::copy(turned.begin(), turned.end(), q_THd.as<float>() + j * (l + r) + l);
    }
    const float* from = latent_TL.as<const float>() + t * (l + r);
    double sum = 0;
    for (int64_t i = 0; i < l; ++i) sum += static_cast<double>(from[i]) * static_cast<double>(from[i]);
    const double factor = 1 / std::sqrt(sum / static_cast<double>(l) + static_cast<double>(rotary.norm_eps));
    std::vector<float> normed_L;
    for (int64_t i = 0; i < l; ++i)
      normed_L.push_back(static_cast<float>(static_cast<double>(from[i]) * factor) *
                         rotary.norm_L.as<const float>()[i]);
    char* to = layout.position(batch, batch.row_of_T[t], position);
    write_vector(to, layout.element, normed_L);
    write_vector(to + layout.key_at, layout.element, rotated(from + l, r, rotary, position));
  }
}

void reference_latent_attention(const LatentShape& shape, const TensorView& out_THL, const TensorView& q_THd,
                                const LatentCacheView& cache, const BatchView& batch, float scale) {
  const int64_t l = shape.latent;
  const int64_t d = l + shape.rope;
  const LatentLayout layout(cache);
  for (int64_t t = 0; t < batch.tokens; ++t) {
    const int64_t seen = batch.positions_T[t] + 1;
    std::vector<std::vector<double>> cached;  // of each position: the latent, then the key
    for (int64_t p = 0; p < seen; ++p) {
      const char* from = layout.position(batch, batch.row_of_T[t], p);
      const std::vector<double> key = read_vector(from + layout.key_at, layout.element, shape.rope);
      cached.push_back(read_vector(from, layout.element, l));
      cached.back().insert(cached.back().end(), key.begin(), key.end());
    }
    for (int64_t j = t * shape.heads; j < (t + 1) * shape.heads; ++j) {
      std::vector<double> p_P(static_cast<size_t>(seen));
      for (int64_t p = 0; p < seen; ++p) {
        double dot = 0;
        for (int64_t i = 0; i < d; ++i)
          dot += static_cast<double>(q_THd.as<const float>()[j * d + i]) *
                 cached[static_cast<size_t>(p)][static_cast<size_t>(i)];
        p_P[static_cast<size_t>(p)] = dot * static_cast<double>(scale);
      }
      const double largest = *std::max_element(p_P.begin(), p_P.end());
      double sum = 0;
      for (double& p : p_P) sum += p = std::exp(p - largest);
      for (int64_t i = 0; i < l; ++i) {
        double out = 0;
        for (size_t p = 0; p < p_P.size(); ++p) out += p_P[p] * cached[p][static_cast<size_t>(i)];
        write(out_THL.data, out_THL.dtype, j * l + i, static_cast<float>(out / sum));
      }
    }
  }
}

void reference_route(const RoutingView& routing, const TensorView& logits_TE, const GateView& gate) {
  const auto [weights_TC, slot_TC, token_S, expert_start_E1, tokens, chosen, experts] = routing;
  std::vector<std::vector<int64_t>> pairs_of(static_cast<size_t>(experts));
  for (int64_t t = 0; t < tokens; ++t) {
    const std::vector<double> scores =
        scores_of(logits_TE.as<const float>() + t * experts, experts, gate.sigmoid);
    std::vector<double> choice = scores;
    for (size_t e = 0; e < choice.size() && gate.correction_E.data != nullptr; ++e)
      choice[e] += static_cast<double>(gate.correction_E.as<const float>()[e]);
    if (gate.groups > 1) mask_groups(choice, gate);
    const std::vector<int64_t> picked = best(choice, chosen);
    double sum = 0;
    for (const int64_t e : picked) sum += scores[static_cast<size_t>(e)];
    for (int64_t c = 0; c < chosen; ++c) {
      const auto e = static_cast<size_t>(picked[static_cast<size_t>(c)]);
      weights_TC[t * chosen + c] = static_cast<float>(scores[e] / (gate.normalise ? sum + 1e-20 : 1) *
                                                      static_cast<double>(gate.scale));
      pairs_of[e].push_back(t * chosen + c);
    }
  }
  int32_t slot = 0;
  for (int64_t e = 0; e < experts; ++e) {
    expert_start_E1[e] = slot;
    for (const int64_t pair : pairs_of[static_cast<size_t>(e)]) {
      slot_TC[pair] = slot;
      token_S[slot++] = static_cast<int32_t>(pair / chosen);
    }
  }
  expert_start_E1[experts] = slot;
}

void reference_combine(const TensorView& x_TD, const TensorView& y_SD, const RoutingView& routing) {
  const int64_t d = x_TD.dim(1);
  for (int64_t t = 0; t < routing.tokens; ++t)
    for (int64_t i = 0; i < d; ++i) {
      double sum = 0;
      for (int64_t pair = t * routing.chosen; pair < (t + 1) * routing.chosen; ++pair)
        sum += static_cast<double>(routing.weights_TC[pair]) *
               static_cast<double>(y_SD.as<const float>()[routing.slot_TC[pair] * d + i]);
      float& x = x_TD.as<float>()[t * d + i];
      x = static_cast<float>(static_cast<double>(x) + sum);
    }
}

}  // namespace penstock::cpu
