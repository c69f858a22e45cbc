#include "runtime/requests/text/chat_template.h"

#include <nlohmann/json.hpp>

#include "runtime/base/error.h"
#include "runtime/requests/text/template/interpreter.h"
#include "runtime/requests/text/template/parser.h"

namespace penstock {

struct ChatTemplate::Parsed {
  std::string source;
  jinja::Body body;
};

ChatTemplate::ChatTemplate(std::unique_ptr<const Parsed> parsed) : parsed_(std::move(parsed)) {}
ChatTemplate::~ChatTemplate() = default;

std::shared_ptr<const ChatTemplate> ChatTemplate::parse(const std::string& source) {
  auto parsed = std::make_unique<Parsed>();
  parsed->source = source;
  parsed->body = jinja::parse(source);
  return std::shared_ptr<const ChatTemplate>(new ChatTemplate(std::move(parsed)));
}

std::string ChatTemplate::render(const nlohmann::ordered_json& variables) const {
  const jinja::Value values = jinja::Value::from_json(variables);
  if (values.dict() == nullptr) throw Error("A chat template's variables must be an object.");
  return jinja::Interpreter(*values.dict()).render(parsed_->body);
}

const std::string& ChatTemplate::source() const {
  return parsed_->source;
}

}  // namespace penstock
