#include "runtime/requests/text/tokenize_protocol.h"

#include <nlohmann/json.hpp>

#include "runtime/base/error.h"

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
      throw Error("Field 'ids' holds " + id.dump().substr(0, 40) + ", expected a token id of 0 to " + std::to_string(INT32_MAX) + ".");
    }
    ids.push_back(id.get<int32_t>());
  }
  return ids;
}

}  // namespace

TokenizeProtocol::TokenizeProtocol(std::shared_ptr<const Tokenizer> tokenizer, std::shared_ptr<const ChatTemplate> chat_template)
    : tokenizer_(std::move(tokenizer)), chat_template_(std::move(chat_template)) {}

std::string TokenizeProtocol::answer(const std::string& json_line) const {
  Json out;
  try {
    const Json line = Json::parse(json_line);
    if (!line.is_object()) throw Error("The line must be a JSON object.");
    if (line.contains("text")) {
      if (!line["text"].is_string()) throw Error("Field 'text' must be a string.");
      out["ids"] = tokenizer_->encode(line["text"].get_ref<const std::string&>(), flag(line, "add_special_tokens"));
    } else if (line.contains("ids")) {
      out["text"] = tokenizer_->decode(read_ids(line["ids"]), flag(line, "skip_special_tokens"));
    } else {
      throw Error("The line must have 'text', 'ids' or 'messages'.");
    }
  } catch (const std::exception& error) {
    out = {{"error", error.what()}};
  }
  // Escaped to ASCII: readers that split lines at any Unicode line break (Python splitlines) then see one line.
  return out.dump(-1, ' ', true, Json::error_handler_t::replace);
}

}  // namespace penstock
