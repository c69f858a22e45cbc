// Log-probabilities of an answer in the shapes that OpenAI's and vLLM's APIs give them. Pure functions.
#pragma once

#include <nlohmann/json.hpp>

#include "runtime/requests/answer.h"

namespace penstock {

/// A completion's: tokens, token_logprobs, top_logprobs and text_offset, the echoed prompt's tokens first.
nlohmann::ordered_json completion_logprobs(const Answer& answer, const Choice& choice);
/// A chat's: {"content": [{token, logprob, bytes, top_logprobs}]}.
nlohmann::ordered_json chat_logprobs(const Choice& choice);
/// vLLM's prompt_logprobs: null for the first token, then {"id": {logprob, rank, decoded_token}} for each.
nlohmann::ordered_json prompt_logprobs(const Choice& choice);

}  // namespace penstock
