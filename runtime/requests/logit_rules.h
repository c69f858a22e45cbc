// What a sequence's row makes of its logits, as the plan tells the last stage. Fixed rules go there once,
// with the first sampling after each admission, together with the tokens so far; the last stage counts on
// from there. What depends on the moment (min_tokens, bad_words) is worked out here, a list of banned tokens
// a step. Pure.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "proto/plan.pb.h"
#include "runtime/requests/sampling_fields.h"

namespace penstock {

struct LogitRules {
  proto::LogitRules fixed;                      ///< without prompt and generated
  bool any_fixed = false;                       ///< the last stage must keep state for this sequence
  int64_t min_tokens = 0;                       ///< until so many are generated,
  std::vector<int32_t> withheld;                ///< these may not come
  std::vector<std::vector<int32_t>> bad_words;  ///< as tokens, none empty; one ends with no other's end twice

  bool empty() const { return !any_fixed && min_tokens == 0 && bad_words.empty(); }
};

/// `end_tokens` are those that end the sequence, with the end-of-sequence tokens also under ignore_eos, as in
/// vLLM. `bad_words` are the row's, as tokens.
LogitRules make_logit_rules(const SamplingFields& fields, std::vector<int32_t> end_tokens,
                            std::vector<std::vector<int32_t>> bad_words);

/// Puts the rules into the sampling of the token after `generated`. `first`: since the sequence was admitted.
void put_rules(const LogitRules& rules, std::span<const int32_t> prompt, std::span<const int32_t> generated,
               bool first, proto::Sampling& sampling);

}  // namespace penstock
