// One line of an OpenAI Batch file, checked: what to generate, or why not. Grammar and defaults:
// docs/formats.md.
#pragma once

#include <cstdint>
#include <memory>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "runtime/requests/sampling_fields.h"
#include "runtime/requests/text/chat_template.h"

namespace penstock {

/// Text to tokenize, or token ids as they are.
using Prompt = std::variant<std::string, std::vector<int32_t>>;

/// What /v1/chat/completions brings in place of a prompt.
struct Conversation {
  std::shared_ptr<const nlohmann::ordered_json> messages;  ///< a list of objects with a role, at least one
  std::shared_ptr<const nlohmann::ordered_json> tools;     ///< a list, or null: none
  std::shared_ptr<const nlohmann::ordered_json> kwargs;    ///< chat_template_kwargs, or null
  ChatOptions options{true, false};
  bool include_reasoning = true;
};

struct Request {
  std::string custom_id;
  std::string model;                 ///< as the row names it; may be empty
  std::vector<Prompt> prompts;       ///< empty for a chat until it is rendered
  std::optional<Conversation> chat;  ///< set for /v1/chat/completions
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
  GenerationDefaults defaults;  ///< of rows that do not say
};

/// Never throws for what a line holds. `line` is one JSON object without its newline.
std::variant<Request, RowError> parse_batch_line(std::string_view line, const RequestLimits& limits);

}  // namespace penstock
