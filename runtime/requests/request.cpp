#include "runtime/requests/request.h"

#include <algorithm>
#include <nlohmann/json.hpp>

namespace penstock {
namespace {

using Json = nlohmann::json;

/// What parsing throws inside this file; it becomes the row's error.
struct FieldError {
  std::string message;
  std::string field;
};

std::string shown(const Json& value) {
  std::string text = value.dump(-1, ' ', true, Json::error_handler_t::replace);
  if (text.size() > 80) text = text.substr(0, 77) + "...";
  return text;
}

[[noreturn]] void reject(const std::string& field, const std::string& expected, const Json& found) {
  throw FieldError{field + ": expected " + expected + ", found " + shown(found), field};
}

int64_t whole_number(const std::string& field, const Json& value, int64_t low, int64_t high) {
  const std::string expected = "a whole number from " + std::to_string(low) + " to " + std::to_string(high);
  if (value.is_number_unsigned() && value.get<uint64_t>() > static_cast<uint64_t>(INT64_MAX))
    reject(field, expected, value);
  if (!value.is_number_integer()) reject(field, expected, value);
  const auto number = value.get<int64_t>();
  if (number < low || number > high) reject(field, expected, value);
  return number;
}

float number(const std::string& field, const Json& value, double low, double high, const char* expected) {
  if (!value.is_number()) reject(field, expected, value);
  const auto found = value.get<double>();
  if (!(found >= low && found <= high)) reject(field, expected, value);
  return static_cast<float>(found);
}

bool truth(const std::string& field, const Json& value) {
  if (!value.is_boolean()) reject(field, "true or false", value);
  return value.get<bool>();
}

std::vector<int32_t> token_ids(const std::string& field, const Json& array) {
  std::vector<int32_t> ids;
  ids.reserve(array.size());
  for (const Json& id : array) ids.push_back(static_cast<int32_t>(whole_number(field, id, 0, INT32_MAX)));
  return ids;
}

std::vector<Prompt> prompts_of(const Json& value) {
  const char* expected = "a string, token ids, or a list of strings or of lists of token ids, none empty";
  if (value.is_string()) return {value.get<std::string>()};
  if (!value.is_array() || value.empty()) reject("prompt", expected, value);
  if (value.front().is_number()) return {token_ids("prompt", value)};
  std::vector<Prompt> prompts;
  for (const Json& one : value) {
    if (value.front().is_string() && one.is_string())
      prompts.emplace_back(one.get<std::string>());
    else if (value.front().is_array() && one.is_array() && !one.empty())
      prompts.emplace_back(token_ids("prompt", one));
    else
      reject("prompt", expected, one);
  }
  return prompts;
}

constexpr int64_t kMostTokens = int64_t{1} << 31;

/// One field of the body. Returns false for a name it does not know.
bool read_field(const std::string& name, const Json& value, const RequestLimits& limits, Request& request) {
  SamplingFields& s = request.sampling;
  if (name == "model") {
    if (!value.is_string()) reject(name, "a string", value);
    request.model = value.get<std::string>();
    if (!limits.served_model_name.empty() && request.model != limits.served_model_name)
      reject(name, "'" + limits.served_model_name + "', which this job serves", value);
  } else if (name == "prompt") {
    request.prompts = prompts_of(value);
  } else if (value.is_null()) {
    // As in the OpenAI API: null is the default.
  } else if (name == "n") {
    s.n = whole_number(name, value, 1, limits.max_choices);
  } else if (name == "temperature") {
    s.temperature = number(name, value, 0, 100, "a number from 0 to 100");
  } else if (name == "top_p") {
    s.top_p = number(name, value, 0x1p-149, 1, "a number above 0 and at most 1");
  } else if (name == "top_k") {
    s.top_k = static_cast<int32_t>(std::max<int64_t>(0, whole_number(name, value, -1, INT32_MAX)));
  } else if (name == "min_p") {
    s.min_p = number(name, value, 0, 1, "a number from 0 to 1");
  } else if (name == "seed") {
    s.seed = whole_number(name, value, INT64_MIN, INT64_MAX);
  } else if (name == "max_tokens") {
    s.max_tokens = whole_number(name, value, 1, kMostTokens);
  } else if (name == "ignore_eos") {
    s.ignore_eos = truth(name, value);
  } else if (name == "stop_token_ids") {
    if (!value.is_array()) reject(name, "a list of token ids", value);
    s.stop_token_ids = token_ids(name, value);
  } else if (name == "logprobs") {
    s.logprobs = static_cast<int32_t>(whole_number(name, value, 0, limits.max_logprobs));
  } else if (name == "return_token_ids") {
    s.return_token_ids = truth(name, value);
  } else if (name == "add_special_tokens") {
    s.add_special_tokens = truth(name, value);
  } else if (name == "stream") {
    if (truth(name, value)) reject(name, "false: a batch job does not stream", value);
  } else if (name == "user") {
    if (!value.is_string()) reject(name, "a string", value);
  } else {
    return false;
  }
  return true;
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
  if (line.contains("method") && line["method"] != "POST") reject("method", "\"POST\"", line["method"]);
  if (!line.contains("url")) throw FieldError{"url: expected \"/v1/completions\", found none", "url"};
  if (line["url"] != "/v1/completions") reject("url", "\"/v1/completions\"", line["url"]);
  if (!line.contains("body") || !line["body"].is_object())
    throw FieldError{"body: expected an object with the request", "body"};
  for (const auto& [name, value] : line["body"].items())
    if (!read_field(name, value, limits, request))
      throw FieldError{name + ": this field is not supported; remove it from the row", name};
  for (const auto& [name, value] : line.items())
    if (name != "custom_id" && name != "method" && name != "url" && name != "body")
      throw FieldError{name + ": this field is not part of a batch line (custom_id, method, url, body)",
                       name};
  if (request.prompts.empty()) throw FieldError{"prompt: expected a prompt, found none", "prompt"};
  const auto prompts = static_cast<int64_t>(request.prompts.size());
  if (prompts * request.sampling.n > limits.max_choices)
    throw FieldError{"prompt: expected at most " + std::to_string(limits.max_choices) +
                         " choices a row, found " + std::to_string(prompts) +
                         " prompts x n = " + std::to_string(request.sampling.n),
                     "prompt"};
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
