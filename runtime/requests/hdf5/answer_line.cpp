#include "runtime/requests/hdf5/answer_line.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "runtime/requests/answer.h"
#include "runtime/requests/answer_text.h"

namespace penstock {
namespace {

FinishedSequence sequence_of(ResultChoice& choice) {
  FinishedSequence sequence;
  sequence.reason =
      choice.finish_reason == name_of(FinishReason::stop) ? FinishReason::stop : FinishReason::length;
  for (size_t t = 0; t < choice.tokens.size(); ++t) {
    GeneratedToken token{choice.tokens[t], choice.logprobs.at(t), {}};
    if (!choice.top.empty()) token.top = std::move(choice.top.at(t));
    sequence.tokens.push_back(std::move(token));
  }
  return sequence;
}

/// A stop token is known by its id, which the file has as text: it is the answer's last token.
void put_stop_reason(const ResultChoice& from, Choice& to) {
  if (from.stop_reason.empty()) return;
  if (!from.tokens.empty() && std::to_string(from.tokens.back()) == from.stop_reason)
    to.stop_reason = from.tokens.back();
  else
    to.stop_string = from.stop_reason;
}

/// What the row asked for, judged by what it has.
SamplingFields fields_of(const ResultRow& row) {
  SamplingFields fields;
  for (const ResultChoice& choice : row.choices) {
    if (!choice.prompt_tokens.empty()) fields.return_token_ids = true;
    if (std::any_of(choice.logprobs.begin(), choice.logprobs.end(), [](float x) { return !std::isnan(x); }))
      fields.logprobs = 0;
  }
  return fields;
}

}  // namespace

std::string answer_line(ResultRow row, const std::string& model) {
  if (!row.error.empty()) return format_error({row.custom_id, row.error, ""});
  Answer answer;
  answer.custom_id = std::move(row.custom_id);
  answer.model = model;
  answer.system_fingerprint = std::move(row.system_fingerprint);
  answer.prompt_tokens = row.prompt_tokens;
  answer.fields = fields_of(row);
  for (ResultChoice& choice : row.choices) {
    answer.choices.emplace_back().sequence = sequence_of(choice);
    answer.prompt_token_ids.push_back(choice.prompt_tokens);
  }
  fill_texts(answer, nullptr);  // of tokens, for log-probabilities
  for (size_t i = 0; i < row.choices.size(); ++i) {
    answer.choices[i].text = std::move(row.choices[i].text);
    put_stop_reason(row.choices[i], answer.choices[i]);
  }
  return format_answer(answer);
}

}  // namespace penstock
