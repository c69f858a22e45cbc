#include "runtime/requests/answer.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <nlohmann/json.hpp>

#include "runtime/base/rng.h"

namespace penstock {
namespace {

using Json = nlohmann::ordered_json;

/// The shortest decimal that reads back as the same float; JSON has no NaN or infinity, which become null.
Json exact(float value) {
  if (!std::isfinite(value)) return nullptr;
  char digits[32];
  const auto end = std::to_chars(std::begin(digits), std::end(digits), value).ptr;
  double decimal = 0;
  std::from_chars(std::begin(digits), end, decimal);
  return decimal;
}

/// An id that is the same in every run: made from the row's own.
std::string id_of(const char* prefix, const std::string& custom_id) {
  char hex[17];
  std::snprintf(hex, sizeof hex, "%016llx", static_cast<unsigned long long>(stable_hash(custom_id)));
  return std::string(prefix) + hex;
}

/// Characters, as Python counts them, of a piece of UTF-8.
size_t characters_of(const std::string& text) {
  return static_cast<size_t>(std::count_if(
      text.begin(), text.end(), [](char c) { return (static_cast<unsigned char>(c) & 0xC0) != 0x80; }));
}

Json logprobs_of(const Choice& choice) {
  Json tokens = Json::array();
  Json token_logprobs = Json::array();
  Json top_logprobs = Json::array();
  Json text_offset = Json::array();
  size_t offset = 0;
  for (size_t i = 0; i < choice.sequence.tokens.size(); ++i) {
    const GeneratedToken& t = choice.sequence.tokens[i];
    tokens.push_back(choice.token_texts[i]);
    token_logprobs.push_back(exact(t.logprob));
    // As vLLM: the drawn token and the alternatives, keyed by their text; where two share a text the likelier
    // stays.
    Json top = Json::object();
    for (size_t k = 0; k < t.top.size(); ++k)
      if (!top.contains(choice.top_texts[i][k])) top[choice.top_texts[i][k]] = exact(t.top[k].second);
    if (!top.contains(choice.token_texts[i])) top[choice.token_texts[i]] = exact(t.logprob);
    top_logprobs.push_back(std::move(top));
    text_offset.push_back(offset);
    offset += characters_of(choice.token_texts[i]);
  }
  return {{"tokens", std::move(tokens)},
          {"token_logprobs", std::move(token_logprobs)},
          {"top_logprobs", std::move(top_logprobs)},
          {"text_offset", std::move(text_offset)}};
}

Json choice_of(const Answer& answer, size_t index) {
  const Choice& choice = answer.choices[index];
  Json json{{"index", index},
            {"text", choice.text},
            {"logprobs", answer.logprobs ? logprobs_of(choice) : Json(nullptr)},
            {"finish_reason", name_of(choice.sequence.reason)},
            {"stop_reason", choice.stop_reason ? Json(*choice.stop_reason) : Json(nullptr)}};
  if (answer.return_token_ids) {
    Json ids = Json::array();
    for (const GeneratedToken& t : choice.sequence.tokens) ids.push_back(t.id);
    json["token_ids"] = std::move(ids);
    json["prompt_token_ids"] = answer.prompt_token_ids[index];
  }
  return json;
}

std::string line_of(const Json& json) {
  // Model output may hold bytes that are no UTF-8 on their own; JSON may not.
  return json.dump(-1, ' ', false, Json::error_handler_t::replace);
}

}  // namespace

std::string format_answer(const Answer& answer) {
  Json choices = Json::array();
  int64_t generated = 0;
  for (size_t i = 0; i < answer.choices.size(); ++i) {
    choices.push_back(choice_of(answer, i));
    generated += static_cast<int64_t>(answer.choices[i].sequence.tokens.size());
  }
  const Json body{{"id", id_of("cmpl-", answer.custom_id)},
                  {"object", "text_completion"},
                  {"created", 0},
                  {"model", answer.model},
                  {"choices", std::move(choices)},
                  {"usage",
                   {{"prompt_tokens", answer.prompt_tokens},
                    {"completion_tokens", generated},
                    {"total_tokens", answer.prompt_tokens + generated}}}};
  const Json line{
      {"id", id_of("batch_req_", answer.custom_id)},
      {"custom_id", answer.custom_id},
      {"response", {{"status_code", 200}, {"request_id", id_of("req_", answer.custom_id)}, {"body", body}}},
      {"error", nullptr}};
  return line_of(line);
}

std::string format_error(const RowError& error) {
  const Json field = error.field.empty() ? Json(nullptr) : Json(error.field);
  const Json line{{"id", id_of("batch_req_", error.custom_id)},
                  {"custom_id", error.custom_id.empty() ? Json(nullptr) : Json(error.custom_id)},
                  {"response", nullptr},
                  {"error",
                   {{"message", error.message},
                    {"type", "invalid_request_error"},
                    {"param", field},
                    {"code", "invalid_request"}}}};
  return line_of(line);
}

}  // namespace penstock
