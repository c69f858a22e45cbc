#include "runtime/requests/answer_text.h"

#include <algorithm>

namespace penstock {
namespace {

std::string token_text(const Tokenizer* tokenizer, int32_t id) {
  return tokenizer == nullptr ? "token_id:" + std::to_string(id)
                              : tokenizer->decode(std::span(&id, 1), false);
}

void name_tokens(const std::vector<GeneratedToken>& tokens, const Tokenizer* tokenizer,
                 std::vector<TokenTexts>& texts) {
  for (const GeneratedToken& t : tokens) {
    TokenTexts names{token_text(tokenizer, t.id), {}};
    for (const auto& [id, logprob] : t.top) names.top.push_back(token_text(tokenizer, id));
    texts.push_back(std::move(names));
  }
}

void write_text(const Answer& answer, Choice& choice, const std::shared_ptr<const Tokenizer>& tokenizer) {
  const std::vector<GeneratedToken>& tokens = choice.sequence.tokens;
  const SamplingFields& fields = answer.fields;
  const bool ended = choice.sequence.reason == FinishReason::stop && !tokens.empty();
  const auto is_last = [&](const std::vector<int32_t>& ids) {
    return std::find(ids.begin(), ids.end(), tokens.back().id) != ids.end();
  };
  const bool by_token = ended && is_last(answer.end_tokens);
  if (by_token && is_last(fields.stop_token_ids)) choice.stop_reason = tokens.back().id;
  if (tokenizer == nullptr) return;
  SequenceText text(tokenizer, fields);
  const size_t shown = tokens.size() - (by_token && !fields.include_stop_str_in_output ? 1 : 0);
  for (size_t i = 0; i < shown; ++i) text.push(tokens[i].id);
  choice.text = text.finish();
  if (text.stop() && !by_token) choice.stop_string = fields.stop[*text.stop()];
}

}  // namespace

SequenceText::SequenceText(const std::shared_ptr<const Tokenizer>& tokenizer, const SamplingFields& fields)
    : detokenizer_(tokenizer, {fields.skip_special_tokens, fields.spaces_between_special_tokens}),
      matcher_(fields.stop, fields.include_stop_str_in_output),
      unsearched_(fields.min_tokens) {}

bool SequenceText::push(int32_t id) {
  const std::string piece = detokenizer_.push(id);
  if (unsearched_ > 0) {
    --unsearched_;
    text_ += matcher_.pass(piece);
    return false;
  }
  StopMatcher::Step step = matcher_.push(piece);
  text_ += step.text;
  if (step.stop) stop_ = step.stop;
  return stop_.has_value();
}

std::string SequenceText::finish() {
  if (!stop_) text_ += matcher_.flush() + detokenizer_.flush();
  return std::move(text_);
}

void fill_texts(Answer& answer, const std::shared_ptr<const Tokenizer>& tokenizer) {
  const SamplingFields& fields = answer.fields;
  for (size_t i = 0; i < answer.choices.size(); ++i) {
    Choice& choice = answer.choices[i];
    if (fields.max_tokens == 0) {  // the prompt alone was asked for
      choice.sequence.tokens.clear();
      choice.sequence.reason = FinishReason::length;
    }
    write_text(answer, choice, tokenizer);
    if (fields.logprobs) name_tokens(choice.sequence.tokens, tokenizer.get(), choice.token_texts);
    if (fields.prompt_logprobs) {
      // n samples of a prompt share its scores, which the first of them brought.
      const size_t first = i - i % static_cast<size_t>(fields.n);
      if (i != first) choice.sequence.prompt = answer.choices[first].sequence.prompt;
      choice.first_prompt_text = token_text(tokenizer.get(), answer.prompt_token_ids[i].front());
      name_tokens(choice.sequence.prompt, tokenizer.get(), choice.prompt_texts);
    }
    if (fields.echo && !answer.chat && tokenizer != nullptr)
      choice.echoed = tokenizer->decode(answer.prompt_token_ids[i], fields.skip_special_tokens);
  }
}

}  // namespace penstock
