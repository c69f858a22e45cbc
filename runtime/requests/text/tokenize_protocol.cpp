#include "runtime/requests/text/tokenize_protocol.h"

#include <nlohmann/json.hpp>

#include "runtime/base/error.h"
#include "runtime/requests/text/chat_template.h"
#include "runtime/requests/text/json_depth.h"

namespace penstock {
namespace {

using Json = nlohmann::ordered_json;

bool flag(const Json& line, const char* name) {
  const auto field = line.find(name);
  if (field == line.end() || field->is_null()) return false;
  if (!field->is_boolean()) throw Error(std::string("Field '") + name + "' must be true or false.");
  return field->get<bool>();
}

std::vector<int32_t> read_ids(const Json& array) {
  if (!array.is_array()) throw Error("Field 'ids' must be an array of token ids.");
  std::vector<int32_t> ids;
  for (const Json& id : array) {
    if (!id.is_number_unsigned() || id.get<uint64_t>() > INT32_MAX) {
      throw Error("Field 'ids' holds " + id.dump().substr(0, 40) + ", expected a token id of 0 to " +
                  std::to_string(INT32_MAX) + ".");
    }
    ids.push_back(id.get<int32_t>());
  }
  return ids;
}

/// The line's own fields, then those of chat_template_kwargs.
Json chat_variables(const Json& line) {
  Json variables = Json::object();
  for (const char* name : {"messages", "tools", "add_generation_prompt"}) {
    if (line.contains(name)) variables[name] = line[name];
  }
  if (const auto more = line.find("chat_template_kwargs"); more != line.end() && !more->is_null()) {
    if (!more->is_object()) throw Error("Field 'chat_template_kwargs' must be an object.");
    for (const auto& [name, value] : more->items()) variables[name] = value;
  }
  return variables;
}

}  // namespace

TokenizeProtocol::TokenizeProtocol(std::shared_ptr<const Tokenizer> tokenizer,
                                   std::shared_ptr<const ChatRenderer> chat)
    : tokenizer_(std::move(tokenizer)), chat_(std::move(chat)) {}

std::string TokenizeProtocol::answer(const std::string& json_line) const {
  Json out;
  try {
    const Json line = Json::parse(json_line);
    if (!line.is_object() || nests_deeper(line, kMaxJsonDepth)) {
      throw Error("The line must be a JSON object that nests at most " + std::to_string(kMaxJsonDepth) +
                  " deep.");
    }
    if (line.contains("text")) {
      if (!line["text"].is_string()) throw Error("Field 'text' must be a string.");
      out["ids"] =
          tokenizer_->encode(line["text"].get_ref<const std::string&>(), flag(line, "add_special_tokens"));
    } else if (line.contains("ids")) {
      out["text"] = tokenizer_->decode(read_ids(line["ids"]), flag(line, "skip_special_tokens"));
    } else if (line.contains("messages")) {
      if (chat_ == nullptr)
        throw Error("There is no chat template: neither in the model's folder nor given by --chat-template.");
      out["rendered"] = chat_->render_variables(chat_variables(line));
    } else {
      throw Error("The line must have 'text', 'ids' or 'messages'.");
    }
  } catch (const std::exception& error) {
    out = {{"error", error.what()}};
  }
  // Escaped to ASCII: readers that split lines at any Unicode line break (Python splitlines) then see one
  // line.
  return out.dump(-1, ' ', true, Json::error_handler_t::replace);
}

}  // namespace penstock
