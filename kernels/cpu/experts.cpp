#include "kernels/cpu/experts.h"

#include <algorithm>
#include <limits>

namespace penstock::cpu {
namespace {

constexpr float kNothing = -std::numeric_limits<float>::infinity();

/// Memory of one thread for one token's choice.
struct Choice {
  float* scores_E;
  float* choice_E;  // scores and correction; -inf once taken or out of question
  float* worth_G;   // of groups; -inf once taken

  static size_t floats(int64_t experts, int64_t groups) { return static_cast<size_t>(2 * experts + groups); }
  Choice(float* memory, int64_t experts)
      : scores_E(memory), choice_E(memory + experts), worth_G(memory + 2 * experts) {}
};

/// The first of the greatest values.
int64_t greatest(const float* values, int64_t n) {
  int64_t best = 0;
  for (int64_t i = 1; i < n; ++i)
    if (values[i] > values[best]) best = i;
  return best;
}

void score(const KernelTable& kernels, float* scores_E, const float* logits_E, int64_t experts,
           bool sigmoid) {
  if (sigmoid) {  // 1 / (1 + exp(-x))
    for (int64_t e = 0; e < experts; ++e) scores_E[e] = -logits_E[e];
    kernels.weights(scores_E, nullptr, scores_E, experts, 0, 1, 0);
    for (int64_t e = 0; e < experts; ++e) scores_E[e] = 1 / (1 + scores_E[e]);
    return;
  }
  kernels.weights(scores_E, nullptr, logits_E, experts, *std::max_element(logits_E, logits_E + experts), 1,
                  0);
  float sum = 0;
  for (int64_t e = 0; e < experts; ++e) sum += scores_E[e];
  for (int64_t e = 0; e < experts; ++e) scores_E[e] /= sum;
}

/// Experts outside the best groups are out of question, also where a correction makes all that are left
/// negative: so DeepSeek's own code, vLLM and transformers 5.
void drop_other_groups(const Choice& at, int64_t experts, const GateView& gate) {
  const int64_t size = experts / gate.groups;
  for (int64_t g = 0; g < gate.groups; ++g) {
    const float* group = at.choice_E + g * size;
    float first = kNothing;
    float second = kNothing;
    for (int64_t e = 0; e < size; ++e) {
      second = std::max(second, std::min(first, group[e]));
      first = std::max(first, group[e]);
    }
    at.worth_G[g] = gate.two_best && size > 1 ? first + second : first;
  }
  for (int64_t kept = 0; kept < gate.groups_kept; ++kept)
    at.worth_G[greatest(at.worth_G, gate.groups)] = kNothing;
  for (int64_t g = 0; g < gate.groups; ++g)
    if (at.worth_G[g] != kNothing) std::fill_n(at.choice_E + g * size, size, kNothing);
}

/// One token's weights and, in `experts_C`, its experts.
void choose(const KernelTable& kernels, const Choice& at, float* weights_C, int32_t* experts_C,
            const float* logits_E, const RoutingView& routing, const GateView& gate) {
  score(kernels, at.scores_E, logits_E, routing.experts, gate.sigmoid);
  const auto* correction_E = gate.correction_E.as<const float>();
  for (int64_t e = 0; e < routing.experts; ++e)
    at.choice_E[e] = correction_E == nullptr ? at.scores_E[e] : at.scores_E[e] + correction_E[e];
  if (gate.groups > 1) drop_other_groups(at, routing.experts, gate);
  float sum = 0;
  for (int64_t c = 0; c < routing.chosen; ++c) {
    const int64_t e = greatest(at.choice_E, routing.experts);
    at.choice_E[e] = kNothing;
    experts_C[c] = static_cast<int32_t>(e);
    weights_C[c] = at.scores_E[e];
    sum += at.scores_E[e];
  }
  for (int64_t c = 0; c < routing.chosen; ++c) {
    if (gate.normalise) weights_C[c] /= sum + 1e-20F;
    weights_C[c] *= gate.scale;
  }
}

}  // namespace

void route(const KernelTable& kernels, Team& team, std::vector<std::vector<float>>& scratch,
           const RoutingView& routing, const TensorView& logits_TE, const GateView& gate) {
  const auto [weights_TC, slot_TC, token_S, expert_start_E1, tokens, chosen, experts] = routing;
  const size_t floats = Choice::floats(experts, gate.groups);
  for (auto& s : scratch) s.resize(std::max(s.size(), floats));
  team.share(tokens, 4, [&](int thread, int64_t begin, int64_t end) {
    const Choice at(scratch[static_cast<size_t>(thread)].data(), routing.experts);
    for (int64_t t = begin; t < end; ++t)
      choose(kernels, at, routing.weights_TC + t * routing.chosen, routing.slot_TC + t * routing.chosen,
             logits_TE.as<const float>() + t * routing.experts, routing, gate);
  });

  // From experts to slots, by counting.
  std::fill_n(expert_start_E1, experts + 1, 0);
  for (int64_t pair = 0; pair < tokens * chosen; ++pair) ++expert_start_E1[slot_TC[pair] + 1];
  for (int64_t e = 0; e < experts; ++e) expert_start_E1[e + 1] += expert_start_E1[e];
  for (int64_t pair = 0; pair < tokens * chosen; ++pair) {
    const int32_t slot = expert_start_E1[slot_TC[pair]]++;
    slot_TC[pair] = slot;
    token_S[slot] = static_cast<int32_t>(pair / chosen);
  }
  for (int64_t e = experts; e > 0; --e) expert_start_E1[e] = expert_start_E1[e - 1];
  expert_start_E1[0] = 0;
}

void combine_experts(const KernelTable& kernels, Team& team, std::vector<std::vector<float>>& scratch,
                     const TensorView& x_TD, const TensorView& y_SD, const RoutingView& routing) {
  const int64_t d = x_TD.dim(1);
  for (auto& s : scratch) s.resize(std::max(s.size(), static_cast<size_t>(d)));
  team.share(routing.tokens, 1, [&](int thread, int64_t begin, int64_t end) {
    float* sum = scratch[static_cast<size_t>(thread)].data();
    for (int64_t t = begin; t < end; ++t) {
      std::fill_n(sum, d, 0.0F);
      for (int64_t pair = t * routing.chosen; pair < (t + 1) * routing.chosen; ++pair)
        kernels.add_scaled(sum, y_SD.as<const float>() + routing.slot_TC[pair] * d, routing.weights_TC[pair],
                           d);
      kernels.add_scaled(x_TD.as<float>() + t * d, sum, 1.0F, d);
    }
  });
}

}  // namespace penstock::cpu
