// Output lines of an OpenAI Batch job. Pure functions: the same row gives the same bytes in every run, so an
// answer carries no clock and no random id. Grammar: docs/formats.md.
#pragma once

#include <string>
#include <vector>

#include "runtime/requests/request.h"
#include "runtime/requests/scheduler.h"

namespace penstock {

/// A token and its alternatives as log-probabilities name them; "token_id:7" without a tokenizer.
struct TokenTexts {
  std::string text;
  std::vector<std::string> top;
};

struct Choice {
  std::string text;                      ///< empty without a tokenizer
  std::string echoed;                    ///< the prompt, where echo asks for it before the text
  std::vector<TokenTexts> token_texts;   ///< one a token, for logprobs
  std::string first_prompt_text;         ///< of the prompt's first token, which has no log-probability
  std::vector<TokenTexts> prompt_texts;  ///< one a further prompt token, for prompt_logprobs
  FinishedSequence sequence;
  std::optional<int32_t> stop_reason;      ///< the stop token id the row asked for, when one ended it
  std::optional<std::string> stop_string;  ///< the stop string, when one ended it
};

/// What an answer to /v1/chat/completions has beside its texts.
struct ChatAnswer {
  std::string role;               ///< of the message
  std::string echoed;             ///< the last message's text, where echo puts it before the new one
  bool splits_reasoning = false;  ///< what stands before </think> is reasoning_content (--reasoning-parser)
  bool include_reasoning = true;
};

struct Answer {
  std::string custom_id;
  std::string model;
  int64_t prompt_tokens = 0;
  SamplingFields fields;            ///< what the row asked for
  std::vector<int32_t> end_tokens;  ///< those that end a sequence: stop_token_ids and end-of-sequence
  std::optional<ChatAnswer> chat;
  /// How numbers were computed, where not as the job began: otherwise empty, and left out.
  std::string system_fingerprint;
  std::vector<Choice> choices;
  /// By choice; with return_token_ids, echo or prompt_logprobs.
  std::vector<std::vector<int32_t>> prompt_token_ids;
};

/// One line, without its newline.
std::string format_answer(const Answer& answer);
std::string format_error(const RowError& error);

}  // namespace penstock
