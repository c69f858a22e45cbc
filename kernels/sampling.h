// How one token is drawn from one row of logits. Host code, no device, no state: the CPU back ends call it, a
// GPU back end is tested against it.
//
// Order, as in vLLM's V1 sampler (vllm/v1/sample/sampler.py, ops/penalties.py, ops/topk_topp_sampler.py):
//   1. log-probabilities are those of the raw logits: log-softmax in float32, before anything below;
//   2. rules: what is not in `allowed`, and what is in `banned`, becomes -inf; then each edit: x + bias;
//   divided by the repetition penalty if above 0, multiplied by it if not (Keskar et al. 2019); less
//   frequency penalty times how often the token was generated and presence penalty if it was;
//   3. temperature < 1e-5 is greedy: the largest logit, the lowest id among equals;
//   4. scores = (logit - largest logit) / temperature, weights = exp(scores);
//   5. min-p: a token stays if its probability is at least min_p times the largest one;
//   6. top-k: a token stays if its logit is at least the k-th largest one (equals of the k-th all stay);
//   7. top-p, on the probabilities of what is left: the smallest set of most likely tokens whose sum reaches
//   p, the lower id first among equals; never empty. p >= 1 keeps everything, p <= 0 the most likely token;
//   8. the draw: one uniform number u in (0, 1) of 52 bits from philox(key, position), and the first kept
//   token, in the order of ids, at which the running sum of weights exceeds u times the whole sum.
//
// Why an inverse distribution function over ids rather than a race of exponentials: it needs one random
// number a row instead of one a token, the sums it compares are in float64 (so that their order, fixed as it
// is, hardly matters between devices), and a GPU finds the token with the same two steps: sums of fixed
// chunks, then one chunk.
//
// A NaN logit counts as -inf, +inf as the largest finite float. If no logit is above -inf the answer is
// token 0 with log-probability NaN. NaN parameters switch their filter off; a NaN temperature is greedy.
#pragma once

#include <span>
#include <vector>

#include "kernels/ops.h"

namespace penstock {

constexpr float kGreedyBelow = 1e-5F;

inline bool is_greedy(const SampleParams& params) {
  return !(params.temperature >= kGreedyBelow);
}

/// The uniform number of step 8, in (0, 1).
double uniform_for(const SampleParams& params);

/// The plain reference: sorts the whole row. Thread-safe.
Sampled sample_row_reference(std::span<const float> logits_V, const SampleParams& params);
Sampled score_row_reference(std::span<const float> logits_V, const ScoreParams& params);

/// Step 2: what the rules leave of a row. Thread-safe.
void apply_rules(std::span<const float> logits_V, const SampleParams& params, std::vector<float>& to_V);

}  // namespace penstock
