#include "runtime/requests/hdf5/journaled_row.h"

#include <cmath>
#include <limits>
#include <nlohmann/json.hpp>
#include <string_view>

#include "runtime/base/error.h"

namespace penstock {
namespace {

using Json = nlohmann::json;

std::string text_or_empty(const Json& object, const char* key) {
  const auto found = object.find(key);
  if (found == object.end() || found->is_null()) return {};
  return found->is_string() ? found->get<std::string>() : found->dump();
}

/// Of a completion, or of a chat's message.
std::string text_of(const Json& choice) {
  const auto message = choice.find("message");
  return message == choice.end() ? text_or_empty(choice, "text") : text_or_empty(*message, "content");
}

// Inside a JSON string these quotes would have backslashes.
constexpr std::string_view kLogprobs = "\"logprobs\":";

/// A row asks for all its choices.
bool asked_for_logprobs(const std::string& line) {
  return line.find(std::string(kLogprobs) + "null") == std::string::npos;
}

/// Where the object that begins at `begin` ends; the text's end when it does not.
size_t end_of_object(std::string_view text, size_t begin) {
  int depth = 0;
  bool quoted = false;
  for (size_t i = begin; i < text.size(); ++i) {
    const char c = text[i];
    if (quoted) {
      if (c == '\\')
        ++i;
      else
        quoted = c != '"';
    } else if (c == '"') {
      quoted = true;
    } else if (c == '{') {
      ++depth;
    } else if (c == '}' && --depth == 0) {
      return i + 1;
    }
  }
  return text.size();
}

/// The line without log-probabilities, most of its bytes, which come from the journal as numbers.
Json parse_line(std::string_view line) {
  std::string shorter;
  size_t at = 0;
  for (size_t key; (key = line.find(kLogprobs, at)) != std::string_view::npos;) {
    const size_t value = key + kLogprobs.size();
    shorter += line.substr(at, value - at);
    at = value;
    if (value == line.size() || line[value] != '{') continue;
    shorter += "null";
    at = end_of_object(line, value);
  }
  shorter += line.substr(at);
  return Json::parse(shorter);
}

ResultChoice choice_of(const Json& json, const proto::JournaledChoice& numbers, bool logprobs) {
  ResultChoice choice;
  choice.text = text_of(json);
  choice.finish_reason = text_or_empty(json, "finish_reason");
  choice.stop_reason = text_or_empty(json, "stop_reason");
  choice.tokens.assign(numbers.tokens().begin(), numbers.tokens().end());
  if (logprobs) {
    choice.logprobs.assign(numbers.logprobs().begin(), numbers.logprobs().end());
    for (const proto::Alternatives& top : numbers.top()) {
      std::vector<std::pair<int32_t, float>> alternatives;
      for (int k = 0; k < std::min(top.tokens_size(), top.logprobs_size()); ++k)
        alternatives.emplace_back(top.tokens(k), top.logprobs(k));
      choice.top.push_back(std::move(alternatives));
    }
  } else {
    choice.logprobs.assign(choice.tokens.size(), std::numeric_limits<float>::quiet_NaN());
  }
  if (choice.logprobs.size() != choice.tokens.size() ||
      (!choice.top.empty() && choice.top.size() != choice.tokens.size()))
    throw Error("the journal: expected " + std::to_string(choice.tokens.size()) +
                " log-probabilities, one a token, found " + std::to_string(choice.logprobs.size()));
  if (const auto prompt = json.find("prompt_token_ids"); prompt != json.end() && prompt->is_array())
    choice.prompt_tokens = prompt->get<std::vector<int32_t>>();
  return choice;
}

}  // namespace

ResultRow result_row_of(const proto::FinishedRow& finished) {
  ResultRow row;
  try {
    const Json line = parse_line(finished.line());
    row.custom_id = text_or_empty(line, "custom_id");
    if (!line.at("error").is_null()) {
      row.error = line.at("error").at("message").get<std::string>();
      return row;
    }
    const Json& body = line.at("response").at("body");
    row.system_fingerprint = text_or_empty(body, "system_fingerprint");
    row.prompt_tokens = body.at("usage").at("prompt_tokens").get<int64_t>();
    const Json& choices = body.at("choices");
    if (choices.size() != static_cast<size_t>(finished.choices_size()))
      throw Error("the journal: expected the numbers of " + std::to_string(choices.size()) +
                  " choices, found those of " + std::to_string(finished.choices_size()) +
                  "; was it written for another output?");
    const bool logprobs = asked_for_logprobs(finished.line());
    for (size_t i = 0; i < choices.size(); ++i)
      row.choices.push_back(choice_of(choices[i], finished.choices(static_cast<int>(i)), logprobs));
  } catch (const Json::exception& e) {
    throw Error("the journal: row " + std::to_string(finished.number()) + " is no answer line: " + e.what());
  }
  return row;
}

}  // namespace penstock
