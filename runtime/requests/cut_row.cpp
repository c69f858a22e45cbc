#include "runtime/requests/cut_row.h"

#include <algorithm>

namespace penstock {

using proto::JournaledChoice;

JournaledChoice journaled(const ChoiceSoFar& choice) {
  JournaledChoice saved;
  const bool any_top =
      std::any_of(choice.tokens.begin(), choice.tokens.end(), [](const auto& t) { return !t.top.empty(); });
  for (const GeneratedToken& token : choice.tokens) {
    saved.add_tokens(token.id);
    saved.add_logprobs(token.logprob);
    if (!any_top) continue;
    proto::Alternatives* top = saved.add_top();
    for (const auto& [id, logprob] : token.top) {
      top->add_tokens(id);
      top->add_logprobs(logprob);
    }
  }
  if (choice.ended)
    saved.set_end(*choice.ended == FinishReason::stop ? JournaledChoice::STOP : JournaledChoice::LENGTH);
  return saved;
}

std::optional<std::vector<ChoiceSoFar>> choices_of(const proto::CutRow& row, size_t choices,
                                                   int64_t max_tokens, int64_t vocab_size) {
  if (static_cast<size_t>(row.choices_size()) != choices) return std::nullopt;
  std::vector<ChoiceSoFar> all;
  for (const JournaledChoice& saved : row.choices()) {
    const int count = saved.tokens_size();
    if (saved.logprobs_size() != count || (saved.top_size() != count && saved.top_size() != 0))
      return std::nullopt;
    ChoiceSoFar choice;
    if (saved.end() != JournaledChoice::CUT_SHORT)
      choice.ended = saved.end() == JournaledChoice::STOP ? FinishReason::stop : FinishReason::length;
    if (choice.ended ? count == 0 || count > max_tokens : count >= max_tokens) return std::nullopt;
    for (int i = 0; i < count; ++i) {
      if (saved.tokens(i) < 0 || saved.tokens(i) >= vocab_size) return std::nullopt;
      GeneratedToken token{saved.tokens(i), saved.logprobs(i), {}};
      if (saved.top_size() > 0) {
        const proto::Alternatives& top = saved.top(i);
        if (top.tokens_size() != top.logprobs_size()) return std::nullopt;
        for (int k = 0; k < top.tokens_size(); ++k) token.top.emplace_back(top.tokens(k), top.logprobs(k));
      }
      choice.tokens.push_back(std::move(token));
    }
    all.push_back(std::move(choice));
  }
  return all;
}

}  // namespace penstock
