// One line of an OpenAI Batch file, checked: what to generate, or why not. Grammar and defaults:
// docs/formats.md.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

namespace penstock {

/// Text to tokenize, or token ids as they are.
using Prompt = std::variant<std::string, std::vector<int32_t>>;

/// What the row asks of sampling; names and defaults are vLLM's.
struct SamplingFields {
  int64_t n = 1;
  float temperature = 1;
  float top_p = 1;
  int32_t top_k = 0;
  float min_p = 0;
  std::optional<int64_t> seed;
  int64_t max_tokens = 16;
  bool ignore_eos = false;
  std::vector<int32_t> stop_token_ids;
  std::optional<int32_t> logprobs;
  bool return_token_ids = false;
  bool add_special_tokens = true;
};

struct Request {
  std::string custom_id;
  std::string model;  ///< as the row names it; may be empty
  std::vector<Prompt> prompts;
  SamplingFields sampling;
};

/// A row's error: the job goes on.
struct RowError {
  std::string custom_id;  ///< empty when the line does not give one
  std::string message;
  std::string field;  ///< the field at fault, empty when it is the whole line
};

/// What a row may ask for under this job's model.
struct RequestLimits {
  std::string served_model_name;  ///< a row that names another model is an error; empty: any name
  int64_t max_choices = 1024;     ///< prompts x n of one row
  int32_t max_logprobs = 20;
};

/// Never throws for what a line holds. `line` is one JSON object without its newline.
std::variant<Request, RowError> parse_batch_line(std::string_view line, const RequestLimits& limits);

}  // namespace penstock
