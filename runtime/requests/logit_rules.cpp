#include "runtime/requests/logit_rules.h"

#include <algorithm>

namespace penstock {

LogitRules make_logit_rules(const SamplingFields& fields, std::vector<int32_t> end_tokens,
                            std::vector<std::vector<int32_t>> bad_words) {
  LogitRules rules;
  rules.fixed.set_repetition_penalty(fields.repetition_penalty);
  rules.fixed.set_frequency_penalty(fields.frequency_penalty);
  rules.fixed.set_presence_penalty(fields.presence_penalty);
  for (const auto& [id, bias] : fields.logit_bias) {
    rules.fixed.add_biased(static_cast<uint32_t>(id));
    rules.fixed.add_bias(bias);
  }
  for (const int32_t id : fields.allowed_token_ids) rules.fixed.add_allowed(static_cast<uint32_t>(id));
  rules.any_fixed = fields.repetition_penalty != 1 || fields.frequency_penalty != 0 ||
                    fields.presence_penalty != 0 || !fields.logit_bias.empty() ||
                    !fields.allowed_token_ids.empty();
  rules.min_tokens = end_tokens.empty() ? 0 : fields.min_tokens;
  rules.withheld = std::move(end_tokens);
  rules.bad_words = std::move(bad_words);
  return rules;
}

void put_rules(const LogitRules& rules, std::span<const int32_t> prompt, std::span<const int32_t> generated,
               bool first, proto::Sampling& sampling) {
  if (static_cast<int64_t>(generated.size()) < rules.min_tokens)
    sampling.mutable_banned()->Add(rules.withheld.begin(), rules.withheld.end());
  // vllm/v1/sample/ops/bad_words.py: a word's last token is banned where the tokens before it have just come.
  for (const std::vector<int32_t>& word : rules.bad_words) {
    const size_t before = word.size() - 1;
    if (before <= generated.size() &&
        std::equal(word.begin(), word.end() - 1, generated.end() - static_cast<std::ptrdiff_t>(before)))
      sampling.add_banned(static_cast<uint32_t>(word.back()));
  }
  sampling.set_ruled(rules.any_fixed);
  if (!rules.any_fixed || !first) return;
  proto::LogitRules& sent = *sampling.mutable_rules() = rules.fixed;
  if (rules.fixed.repetition_penalty() != 1) sent.mutable_prompt()->Add(prompt.begin(), prompt.end());
  sent.mutable_generated()->Add(generated.begin(), generated.end());
}

}  // namespace penstock
