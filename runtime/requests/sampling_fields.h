// What a row asks of sampling and of its text. Names, defaults and meanings are vLLM's
// (https://docs.vllm.ai/en/stable/api/vllm/sampling_params/); docs/formats.md has the table.
#pragma once

#include <cstdint>
#include <filesystem>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>
#include <utility>
#include <vector>

namespace penstock {

/// max_tokens of a row that sets none: all that the context has room for.
constexpr int64_t kRestOfContext = -1;

struct SamplingFields {
  int64_t n = 1;
  float temperature = 1;
  float top_p = 1;
  int32_t top_k = 0;
  float min_p = 0;
  std::optional<int64_t> seed;

  float presence_penalty = 0;
  float frequency_penalty = 0;
  float repetition_penalty = 1;
  std::vector<std::pair<int32_t, float>> logit_bias;  ///< each token once
  std::vector<int32_t> allowed_token_ids;             ///< empty: all
  std::vector<std::string> bad_words;

  int64_t max_tokens = 16;  ///< 0 only with echo: the prompt alone is answered
  int64_t min_tokens = 0;
  bool ignore_eos = false;
  std::vector<int32_t> stop_token_ids;
  std::vector<std::string> stop;
  bool include_stop_str_in_output = false;

  std::optional<int32_t> logprobs;         ///< alternatives a token; 0: the drawn one's only
  std::optional<int32_t> prompt_logprobs;  ///< the same of prompt tokens
  bool echo = false;
  bool skip_special_tokens = true;
  bool spaces_between_special_tokens = true;
  bool return_token_ids = false;
  bool add_special_tokens = true;
};

/// Reads one field, of those that completions and chats share; false for a name it does not know. Throws
/// FieldError.
bool read_sampling_field(const std::string& name, const nlohmann::ordered_json& value, int32_t max_logprobs,
                         int64_t max_choices, SamplingFields& fields);

/// What generation_config.json changes in the defaults, as vLLM takes it over: temperature, top_k, top_p,
/// min_p, repetition_penalty; and max_new_tokens, a limit to every row's max_tokens.
struct GenerationDefaults {
  SamplingFields fields;
  int64_t most_new_tokens = 0;  ///< 0: no limit
};

/// `source` is as vLLM's --generation-config: "auto" reads the file in the model's folder if there is one,
/// "vllm" reads none, anything else is a folder that has one. Throws UsageError naming the file, the field
/// and its range.
GenerationDefaults load_generation_defaults(const std::string& source, const std::filesystem::path& model);

}  // namespace penstock
