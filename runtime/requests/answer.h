// Output lines of an OpenAI Batch job. Pure functions: the same row gives the same bytes in every run, so an
// answer carries no clock and no random id. Grammar: docs/formats.md.
#pragma once

#include <string>
#include <vector>

#include "runtime/requests/request.h"
#include "runtime/requests/scheduler.h"

namespace penstock {

struct Choice {
  std::string text;                      ///< empty without a tokenizer
  std::vector<std::string> token_texts;  ///< one a token, for logprobs; "token_id:7" without a tokenizer
  std::vector<std::vector<std::string>> top_texts;
  FinishedSequence sequence;
  std::optional<int32_t> stop_reason;  ///< the stop token id the row asked for, when one ended it
};

struct Answer {
  std::string custom_id;
  std::string model;
  int64_t prompt_tokens = 0;
  bool return_token_ids = false;
  bool logprobs = false;
  std::vector<Choice> choices;
  std::vector<std::vector<int32_t>> prompt_token_ids;  ///< by choice, only with return_token_ids
};

/// One line, without its newline.
std::string format_answer(const Answer& answer);
std::string format_error(const RowError& error);

}  // namespace penstock
