// A row of the answers as HDF5 keeps it: what the output line says, with token ids and log-probabilities as
// numbers.
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

namespace penstock {

struct ResultChoice {
  std::string text;
  std::string finish_reason;
  std::string stop_reason;  ///< the stop string, or the stop token's id as text; empty: none
  std::vector<int32_t> tokens;
  std::vector<float> logprobs;  ///< as many as tokens; NaN where the row did not ask
  /// As many as tokens, likeliest first; empty when the row asked for none.
  std::vector<std::vector<std::pair<int32_t, float>>> top;
  std::vector<int32_t> prompt_tokens;  ///< only with return_token_ids
};

struct ResultRow {
  std::string custom_id;
  std::string error;  ///< its message; empty: the row has answers
  int64_t prompt_tokens = 0;
  std::vector<ResultChoice> choices;
  std::string system_fingerprint{};  ///< how numbers were computed; empty: as the file's attributes say
};

}  // namespace penstock
