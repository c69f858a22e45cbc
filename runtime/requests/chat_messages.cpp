#include "runtime/requests/chat_messages.h"

#include <nlohmann/json.hpp>
#include <optional>

#include "runtime/base/error.h"
#include "runtime/requests/field_checks.h"
#include "runtime/requests/text/json_depth.h"

namespace penstock {
namespace {

using Json = nlohmann::ordered_json;

std::string text_of_part(const Json& part, const std::string& where) {
  if (part.is_string()) return part.get<std::string>();
  const std::string type = part.is_object() ? part.value("type", Json()).dump() : "";
  const bool is_text = type == "\"text\"" || type == "\"input_text\"" || type == "\"output_text\"";
  if (!is_text || !part.contains("text") || !part["text"].is_string())
    throw Error(where + ".content: expected parts of type text, found " + field::shown(part));
  return part["text"].get<std::string>();
}

void prepare_content(Json& content, bool keep_parts, const std::string& where) {
  if (content.is_string() || content.is_null()) return;
  if (!content.is_array())
    throw Error(where + ".content: expected a string or a list of parts, found " + field::shown(content));
  std::string joined;
  Json parts = Json::array();
  for (const Json& part : content) {
    std::string text = text_of_part(part, where);
    joined += (parts.empty() ? "" : "\n") + text;
    parts.push_back(Json{{"type", "text"}, {"text", std::move(text)}});
  }
  content = keep_parts ? std::move(parts) : Json(std::move(joined));
}

void prepare_calls(Json& calls, const std::string& where) {
  if (!calls.is_array()) return;
  for (Json& call : calls) {
    if (!call.is_object() || !call.contains("function") || !call["function"].is_object()) continue;
    Json& function = call["function"];
    const Json arguments = function.value("arguments", Json());
    if (arguments.is_null() || arguments == "") {
      function["arguments"] = Json::object();
    } else if (arguments.is_string()) {
      Json read = Json::parse(arguments.get_ref<const std::string&>(), nullptr, false);
      if (read.is_discarded() || nests_deeper(read, kMaxJsonDepth))
        throw Error(where + ".tool_calls: expected arguments that are JSON, found " +
                    field::shown(arguments));
      function["arguments"] = std::move(read);
    }
  }
}

}  // namespace

bool template_takes_parts(const ChatRenderer& chat) {
  constexpr const char* kProbe = "PENSTOCKPROBE";
  const Json parts = Json::array({Json{{"type", "text"}, {"text", kProbe}}});
  const Json messages = Json::array({Json{{"role", "user"}, {"content", parts}}});
  try {
    const std::string rendered = chat.render(messages, nullptr, nullptr, {true, false});
    const size_t at = rendered.find(kProbe);
    // A template that prints the list as it is shows the text in quotes.
    return at != std::string::npos && (at == 0 || (rendered[at - 1] != '\'' && rendered[at - 1] != '"'));
  } catch (const Error&) {
    return false;
  }
}

Json prepared_messages(const Json& messages, bool keep_parts) {
  Json prepared = messages;
  for (size_t i = 0; i < prepared.size(); ++i) {
    Json& message = prepared[i];
    const std::string where = "messages[" + std::to_string(i) + "]";
    if (message.contains("content")) prepare_content(message["content"], keep_parts, where);
    if (message["role"] == "assistant" && message.contains("tool_calls"))
      prepare_calls(message["tool_calls"], where);
  }
  return prepared;
}

}  // namespace penstock
