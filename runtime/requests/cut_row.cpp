#include "runtime/requests/cut_row.h"

#include <algorithm>

namespace penstock {

using proto::JournaledChoice;

namespace {

using Alternatives = std::vector<std::pair<int32_t, float>>;

void put(const Alternatives& alternatives, proto::Alternatives& saved) {
  for (const auto& [id, logprob] : alternatives) {
    saved.add_tokens(id);
    saved.add_logprobs(logprob);
  }
}

/// False when ids and log-probabilities are not as many.
bool take(const proto::Alternatives& saved, Alternatives& alternatives) {
  if (saved.tokens_size() != saved.logprobs_size()) return false;
  for (int k = 0; k < saved.tokens_size(); ++k) alternatives.emplace_back(saved.tokens(k), saved.logprobs(k));
  return true;
}

/// False when the tokens do not fit.
bool take_tokens(const JournaledChoice& saved, const CutRowFit& fit, ChoiceSoFar& choice) {
  const int count = saved.tokens_size();
  if (saved.logprobs_size() != count || (saved.top_size() != count && saved.top_size() != 0)) return false;
  if (choice.ended ? count == 0 || count > fit.max_tokens : count >= fit.max_tokens) return false;
  for (int i = 0; i < count; ++i) {
    if (saved.tokens(i) < 0 || saved.tokens(i) >= fit.vocab_size) return false;
    GeneratedToken token{saved.tokens(i), saved.logprobs(i), {}};
    if (saved.top_size() > 0 && !take(saved.top(i), token.top)) return false;
    choice.tokens.push_back(std::move(token));
  }
  return true;
}

/// False when these are no scores of `prompt`, or a choice that has ended lacks some.
bool take_scores(const JournaledChoice& saved, const std::vector<int32_t>& prompt, ChoiceSoFar& choice) {
  const auto count = static_cast<size_t>(saved.prompt_size());
  if (prompt.empty() || count > prompt.size() - 1 || (choice.ended && count < prompt.size() - 1))
    return false;
  for (const proto::ScoredToken& scored : saved.prompt()) {
    GeneratedToken token{scored.token(), scored.logprob(), {}, scored.rank()};
    if (token.id != prompt[choice.prompt.size() + 1] || !take(scored.top(), token.top)) return false;
    choice.prompt.push_back(std::move(token));
  }
  return true;
}

}  // namespace

JournaledChoice journaled(const ChoiceSoFar& choice) {
  JournaledChoice saved;
  const bool any_top =
      std::any_of(choice.tokens.begin(), choice.tokens.end(), [](const auto& t) { return !t.top.empty(); });
  for (const GeneratedToken& token : choice.tokens) {
    saved.add_tokens(token.id);
    saved.add_logprobs(token.logprob);
    if (any_top) put(token.top, *saved.add_top());
  }
  if (choice.ended)
    saved.set_end(*choice.ended == FinishReason::stop ? JournaledChoice::STOP : JournaledChoice::LENGTH);
  for (const GeneratedToken& token : choice.prompt) {
    proto::ScoredToken& scored = *saved.add_prompt();
    scored.set_token(token.id);
    scored.set_logprob(token.logprob);
    scored.set_rank(token.rank);
    put(token.top, *scored.mutable_top());
  }
  return saved;
}

std::optional<std::vector<ChoiceSoFar>> choices_of(const proto::CutRow& row, const CutRowFit& fit) {
  if (static_cast<size_t>(row.choices_size()) != fit.prompts.size() * fit.choices_a_prompt)
    return std::nullopt;
  std::vector<ChoiceSoFar> all;
  for (const JournaledChoice& saved : row.choices()) {
    ChoiceSoFar choice;
    if (saved.end() != JournaledChoice::CUT_SHORT)
      choice.ended = saved.end() == JournaledChoice::STOP ? FinishReason::stop : FinishReason::length;
    if (!take_tokens(saved, fit, choice)) return std::nullopt;
    if (fit.scores_prompts && all.size() % fit.choices_a_prompt == 0 &&
        !take_scores(saved, fit.prompts[all.size() / fit.choices_a_prompt], choice))
      return std::nullopt;
    all.push_back(std::move(choice));
  }
  return all;
}

}  // namespace penstock
