#include "runtime/requests/answer.h"

#include <nlohmann/json.hpp>
#include <string_view>

#include "runtime/base/rng.h"
#include "runtime/requests/answer_logprobs.h"

namespace penstock {
namespace {

using Json = nlohmann::ordered_json;

/// An id that is the same in every run: made from the row's own.
std::string id_of(const char* prefix, const std::string& custom_id) {
  char hex[17];
  std::snprintf(hex, sizeof hex, "%016llx", static_cast<unsigned long long>(stable_hash(custom_id)));
  return std::string(prefix) + hex;
}

Json stop_reason_of(const Choice& choice) {
  if (choice.stop_string) return *choice.stop_string;
  return choice.stop_reason ? Json(*choice.stop_reason) : Json(nullptr);
}

Json ids_of(const std::vector<GeneratedToken>& tokens) {
  Json ids = Json::array();
  for (const GeneratedToken& t : tokens) ids.push_back(t.id);
  return ids;
}

Json completion_choice(const Answer& answer, size_t index) {
  const Choice& choice = answer.choices[index];
  Json json{{"index", index},
            {"text", choice.echoed + choice.text},
            {"logprobs", answer.fields.logprobs ? completion_logprobs(answer, choice) : Json(nullptr)},
            {"finish_reason", name_of(choice.sequence.reason)},
            {"stop_reason", stop_reason_of(choice)}};
  if (answer.fields.prompt_logprobs) json["prompt_logprobs"] = prompt_logprobs(choice);
  if (answer.fields.return_token_ids) {
    json["token_ids"] = ids_of(choice.sequence.tokens);
    json["prompt_token_ids"] = answer.prompt_token_ids[index];
  }
  return json;
}

/// As vLLM's DeepSeekR1ReasoningParser (vllm/reasoning/deepseek_r1_reasoning_parser.py): all before </think>
/// is reasoning, a leading <think> left out; without </think> everything is, and there is no content.
Json message_of(const ChatAnswer& chat, const std::string& text) {
  if (!chat.splits_reasoning) return {{"role", chat.role}, {"content", chat.echoed + text}};
  constexpr std::string_view kBegin = "<think>";
  constexpr std::string_view kEnd = "</think>";
  const size_t begin = text.find(kBegin);
  const std::string thought = begin == std::string::npos ? text : text.substr(begin + kBegin.size());
  const size_t end = thought.find(kEnd);
  const std::string content =
      end == std::string::npos ? std::string() : chat.echoed + thought.substr(end + kEnd.size());
  return {{"role", chat.role},
          {"reasoning_content", chat.include_reasoning ? Json(thought.substr(0, end)) : Json(nullptr)},
          {"content", content.empty() ? Json(nullptr) : Json(content)}};
}

Json chat_choice(const Answer& answer, size_t index) {
  const Choice& choice = answer.choices[index];
  Json json{{"index", index},
            {"message", message_of(*answer.chat, choice.text)},
            {"logprobs", answer.fields.logprobs ? chat_logprobs(choice) : Json(nullptr)},
            {"finish_reason", name_of(choice.sequence.reason)},
            {"stop_reason", stop_reason_of(choice)}};
  if (answer.fields.return_token_ids) json["token_ids"] = ids_of(choice.sequence.tokens);
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
    choices.push_back(answer.chat ? chat_choice(answer, i) : completion_choice(answer, i));
    generated += static_cast<int64_t>(answer.choices[i].sequence.tokens.size());
  }
  Json body{{"id", id_of(answer.chat ? "chatcmpl-" : "cmpl-", answer.custom_id)},
            {"object", answer.chat ? "chat.completion" : "text_completion"},
            {"created", 0},
            {"model", answer.model},
            {"choices", std::move(choices)},
            {"usage",
             {{"prompt_tokens", answer.prompt_tokens},
              {"completion_tokens", generated},
              {"total_tokens", answer.prompt_tokens + generated}}}};
  if (!answer.system_fingerprint.empty()) body["system_fingerprint"] = answer.system_fingerprint;
  if (answer.chat && answer.fields.prompt_logprobs)
    body["prompt_logprobs"] = prompt_logprobs(answer.choices.front());
  if (answer.chat && answer.fields.return_token_ids)
    body["prompt_token_ids"] = answer.prompt_token_ids.front();
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
