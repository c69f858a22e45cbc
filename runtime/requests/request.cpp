#include "runtime/requests/request.h"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "runtime/requests/field_checks.h"

namespace penstock {
namespace {

using field::Json;
using field::reject;
using field::shown;

constexpr const char* kCompletions = "/v1/completions";
constexpr const char* kChat = "/v1/chat/completions";

std::vector<Prompt> prompts_of(const Json& value) {
  const char* expected = "a string, token ids, or a list of strings or of lists of token ids, none empty";
  if (value.is_string()) return {value.get<std::string>()};
  if (!value.is_array() || value.empty()) reject("prompt", expected, value);
  if (value.front().is_number()) return {field::token_ids("prompt", value)};
  std::vector<Prompt> prompts;
  for (const Json& one : value) {
    if (value.front().is_string() && one.is_string())
      prompts.emplace_back(one.get<std::string>());
    else if (value.front().is_array() && one.is_array() && !one.empty())
      prompts.emplace_back(field::token_ids("prompt", one));
    else
      reject("prompt", expected, one);
  }
  return prompts;
}

std::shared_ptr<const Json> kept(const Json& value) {
  return std::make_shared<const Json>(value);
}

std::shared_ptr<const Json> objects(const std::string& name, const Json& value, const char* expected) {
  if (!value.is_array() || value.empty()) reject(name, expected, value);
  for (const Json& one : value)
    if (!one.is_object()) reject(name, expected, one);
  return kept(value);
}

std::shared_ptr<const Json> messages_of(const std::string& name, const Json& value) {
  const char* expected = "a list of messages, each an object with a role";
  std::shared_ptr<const Json> messages = objects(name, value, expected);
  for (const Json& message : *messages)
    if (!message.contains("role") || !message["role"].is_string()) reject(name, expected, message);
  return messages;
}

/// Fields of both kinds of rows that change nothing in an answer.
bool pass_over_field(const std::string& name, const Json& value) {
  if (name == "stream") {
    if (field::truth(name, value)) reject(name, "false: a batch job does not stream", value);
  } else if (name == "user") {
    field::text(name, value);
  } else if (name == "stream_options" || name == "metadata") {
    if (!value.is_object()) reject(name, "an object", value);
  } else {
    return false;
  }
  return true;
}

bool read_completion_field(const std::string& name, const Json& value, const RequestLimits& limits,
                           Request& request) {
  if (name != "logprobs") return false;
  request.sampling.logprobs = static_cast<int32_t>(field::whole_number(name, value, 0, limits.max_logprobs));
  return true;
}

bool read_chat_field(const std::string& name, const Json& value, const RequestLimits& limits,
                     Request& request) {
  Conversation& chat = *request.chat;
  SamplingFields& s = request.sampling;
  if (name == "messages") {
    chat.messages = messages_of(name, value);
  } else if (name == "tools") {
    if (!value.is_array() || !value.empty()) chat.tools = objects(name, value, "a list of objects");
  } else if (name == "tool_choice") {
    if (value != "none" && value != "auto")
      reject(name, "\"none\" or \"auto\": calls are not forced, the answer is given as text", value);
  } else if (name == "parallel_tool_calls") {
    field::truth(name, value);
  } else if (name == "response_format") {
    if (!value.is_object() || !value.contains("type") || value["type"] != "text")
      reject(name, "{\"type\": \"text\"}", value);
  } else if (name == "chat_template_kwargs") {
    if (!value.is_object()) reject(name, "an object", value);
    chat.kwargs = kept(value);
  } else if (name == "add_generation_prompt") {
    chat.options.add_generation_prompt = field::truth(name, value);
  } else if (name == "continue_final_message") {
    chat.options.continue_final_message = field::truth(name, value);
  } else if (name == "include_reasoning") {
    chat.include_reasoning = field::truth(name, value);
  } else if (name == "max_completion_tokens") {
    read_sampling_field("max_tokens", value, limits.max_logprobs, limits.max_choices, s);
  } else if (name == "logprobs") {
    if (field::truth(name, value) && !s.logprobs) s.logprobs = 0;
  } else if (name == "top_logprobs") {
    s.logprobs = static_cast<int32_t>(field::whole_number(name, value, 0, limits.max_logprobs));
  } else {
    return false;
  }
  return true;
}

/// One field of the body. Returns false for a name it does not know.
bool read_field(const std::string& name, const Json& value, const RequestLimits& limits, Request& request) {
  if (name == "model") {
    request.model = field::text(name, value);
    if (!limits.served_model_name.empty() && request.model != limits.served_model_name)
      reject(name, "'" + limits.served_model_name + "', which this job serves", value);
    return true;
  }
  if (name == "prompt" && !request.chat) {
    request.prompts = prompts_of(value);
    return true;
  }
  if (value.is_null()) return true;  // as in the OpenAI API: null is the default
  return (request.chat ? read_chat_field(name, value, limits, request)
                       : read_completion_field(name, value, limits, request)) ||
         read_sampling_field(name, value, limits.max_logprobs, limits.max_choices, request.sampling) ||
         pass_over_field(name, value);
}

/// What no single field shows.
void check_together(const Json& body, const RequestLimits& limits, const Request& request) {
  const SamplingFields& s = request.sampling;
  const auto fail = [](const std::string& name, const std::string& what) {
    throw FieldError{name + ": " + what, name};
  };
  if (request.chat) {
    if (!request.chat->messages) fail("messages", "expected a list of messages, found none");
    const auto logprobs = body.find("logprobs");
    if (s.logprobs && (logprobs == body.end() || *logprobs != true))
      fail("top_logprobs", "expected logprobs to be true with it");
    if (request.chat->options.continue_final_message && request.chat->options.add_generation_prompt)
      fail("continue_final_message", "expected add_generation_prompt to be false with it, found true");
  } else if (request.prompts.empty()) {
    fail("prompt", "expected a prompt, found none");
  }
  const auto prompts = request.chat ? 1 : static_cast<int64_t>(request.prompts.size());
  if (prompts * s.n > limits.max_choices)
    fail("prompt", "expected at most " + std::to_string(limits.max_choices) + " choices a row, found " +
                       std::to_string(prompts) + " prompts x n = " + std::to_string(s.n));
  if (s.max_tokens == 0 && (!s.echo || request.chat))
    fail("max_tokens", "expected a whole number from 1 (0 only for a completion with echo), found 0");
  if (s.max_tokens > 0 && s.min_tokens > s.max_tokens)
    fail("min_tokens", "expected at most max_tokens, " + std::to_string(s.max_tokens) + ", found " +
                           std::to_string(s.min_tokens));
}

Request read_request(const Json& line, const RequestLimits& limits, std::string& custom_id) {
  if (!line.is_object()) throw FieldError{"the line: expected a JSON object, found " + shown(line), ""};
  if (!line.contains("custom_id") || !line["custom_id"].is_string())
    throw FieldError{"custom_id: expected a string, found " +
                         (line.contains("custom_id") ? shown(line["custom_id"]) : std::string("none")),
                     "custom_id"};
  custom_id = line["custom_id"].get<std::string>();
  Request request;
  request.custom_id = custom_id;
  request.sampling = limits.defaults.fields;
  const std::string urls = std::string("\"") + kCompletions + "\" or \"" + kChat + "\"";
  if (line.contains("method") && line["method"] != "POST") reject("method", "\"POST\"", line["method"]);
  if (!line.contains("url")) throw FieldError{"url: expected " + urls + ", found none", "url"};
  if (line["url"] != kCompletions && line["url"] != kChat) reject("url", urls, line["url"]);
  if (!line.contains("body") || !line["body"].is_object())
    throw FieldError{"body: expected an object with the request", "body"};
  const Json& body = line["body"];
  if (line["url"] == kChat) {
    request.chat.emplace();
    request.sampling.max_tokens = kRestOfContext;
    request.sampling.add_special_tokens = false;  // the template has them
  }
  for (const auto& [name, value] : body.items())
    if (!read_field(name, value, limits, request))
      throw FieldError{name + ": this field is not supported; remove it from the row", name};
  for (const auto& [name, value] : line.items())
    if (name != "custom_id" && name != "method" && name != "url" && name != "body")
      throw FieldError{name + ": this field is not part of a batch line (custom_id, method, url, body)",
                       name};
  check_together(body, limits, request);
  if (request.sampling.echo && request.sampling.logprobs && !request.chat &&
      !request.sampling.prompt_logprobs)
    request.sampling.prompt_logprobs = request.sampling.logprobs;
  return request;
}

/// What a user of the line would call the trouble, without the JSON library's own prefix.
std::string reason_of(const Json::exception& e) {
  const std::string what = e.what();
  const size_t end = what.find("] ");
  return end == std::string::npos ? what : what.substr(end + 2);
}

}  // namespace

std::variant<Request, RowError> parse_batch_line(std::string_view line, const RequestLimits& limits) {
  std::string custom_id;
  try {
    // What is nested too deep is not built at all.
    constexpr int kDeepest = 64;
    bool too_deep = false;
    const Json json = Json::parse(line, [&too_deep](int depth, Json::parse_event_t, Json&) {
      too_deep = too_deep || depth > kDeepest;
      return !too_deep;
    });
    if (too_deep)
      return RowError{"", "the line: nested deeper than " + std::to_string(kDeepest) + " levels", ""};
    return read_request(json, limits, custom_id);
  } catch (const FieldError& e) {
    return RowError{custom_id, e.message, e.field};
  } catch (const Json::exception& e) {
    return RowError{custom_id, "the line is not valid JSON: " + reason_of(e), ""};
  }
}

}  // namespace penstock
