// Finding a model's chat template, and rendering a conversation with it as apply_chat_template does.
#include <nlohmann/json.hpp>

#include "runtime/base/error.h"
#include "runtime/base/json_file.h"
#include "runtime/requests/text/chat_template.h"
#include "runtime/requests/text/json_depth.h"
#include "runtime/requests/text/special_tokens.h"
#include "runtime/requests/text/template/python_text.h"

namespace penstock {
namespace {

using Json = nlohmann::ordered_json;
namespace fs = std::filesystem;

// What Hugging Face appends to the last message, to find its end again in the rendered text.
constexpr const char* kContinueTag = "CONTINUE_FINAL_MESSAGE_TAG ";

struct Sources {
  std::string main;
  std::string with_tools;  // may be empty
  fs::path file;
};

/// The chat_template field: a string, or [{"name": ..., "template": ...}].
std::optional<Sources> from_field(const nlohmann::json& file, const fs::path& path) {
  if (!file.is_object() || !file.contains("chat_template") || file["chat_template"].is_null())
    return std::nullopt;
  const auto& field = file["chat_template"];
  if (field.is_string()) return Sources{field.get<std::string>(), "", path};
  Sources out{"", "", path};
  if (!field.is_array())
    throw UsageError(path.string() + ": chat_template must be a string or a list of named templates.");
  for (const auto& entry : field) {
    if (!entry.is_object() || !entry.contains("name") || !entry.contains("template") ||
        !entry["template"].is_string()) {
      throw UsageError(path.string() + ": an entry of chat_template must have a 'name' and a 'template'.");
    }
    if (entry["name"] == "default") out.main = entry["template"];
    if (entry["name"] == "tool_use") out.with_tools = entry["template"];
  }
  if (out.main.empty())
    throw UsageError(path.string() + ": chat_template is a list without a template named 'default'.");
  return out;
}

std::optional<Sources> find_sources(const fs::path& folder, const fs::path& override_path) {
  if (!override_path.empty()) return Sources{read_text_file(override_path), "", override_path};
  const fs::path own = folder / "chat_template.jinja";
  if (fs::exists(own)) return Sources{read_text_file(own), "", own};
  for (const char* name : {"chat_template.json", "tokenizer_config.json"}) {
    if (!fs::exists(folder / name)) continue;
    if (std::optional<Sources> found = from_field(read_json_file(folder / name), folder / name)) return found;
  }
  return std::nullopt;
}

/// Marks the end of the last message's text; returns that text.
std::string mark_final_message(Json& messages) {
  if (!messages.is_array() || messages.empty() || !messages.back().is_object() ||
      !messages.back().contains("content")) {
    throw Error("continue_final_message is set, but the last message has no content to go on with.");
  }
  Json& content = messages.back()["content"];
  Json* text = nullptr;
  if (content.is_string()) text = &content;
  if (content.is_array()) {
    for (Json& part : content) {
      if (part.is_object() && part.contains("text") && part["text"].is_string()) text = &part["text"];
    }
  }
  if (text == nullptr)
    throw Error("continue_final_message is set, but the last message has no text to go on with.");
  const auto original = text->get<std::string>();
  *text = original + kContinueTag;
  return original;
}

/// The text up to the mark. A template that strips messages leaves out the mark's space: then strip, too.
std::string cut_at_mark(const std::string& rendered, const std::string& message) {
  const std::string tag = kContinueTag;
  const size_t at = rendered.rfind(tag.substr(0, tag.size() - 1));
  const auto stripped = jinja::python::strip(message);
  if (at == std::string::npos || rendered.find(stripped) == std::string::npos) {
    throw Error(
        "continue_final_message is set, but the chat template does not render the last message as it is.");
  }
  const std::string before = rendered.substr(0, at);
  if (rendered.compare(at, tag.size(), tag) == 0) return before;
  return std::string(jinja::python::strip_right(before));
}

}  // namespace

std::shared_ptr<const ChatRenderer> ChatRenderer::load(const fs::path& folder,
                                                       const fs::path& override_path) {
  const std::optional<Sources> sources = find_sources(folder, override_path);
  if (!sources) return nullptr;
  auto made = std::make_shared<ChatRenderer>();
  try {
    made->template_ = ChatTemplate::parse(sources->main);
    if (!sources->with_tools.empty()) made->tool_template_ = ChatTemplate::parse(sources->with_tools);
  } catch (const Error& error) {
    throw UsageError(sources->file.string() + ": " + error.what());
  }
  const SpecialTokens tokens = read_special_tokens(folder);
  Json variables = Json::object();
  const auto put = [&](const char* name, const std::optional<std::string>& token) {
    if (token) variables[name] = *token;
  };
  put("bos_token", tokens.bos);
  put("eos_token", tokens.eos);
  put("pad_token", tokens.pad);
  put("unk_token", tokens.unk);
  made->tokens_ = std::make_shared<const Json>(std::move(variables));
  return made;
}

std::string ChatRenderer::render_variables(const Json& variables) const {
  Json all = *tokens_;
  for (const auto& [name, value] : variables.items()) all[name] = value;
  const bool has_tools = all.contains("tools") && !all["tools"].is_null();
  return (has_tools && tool_template_ ? tool_template_ : template_)->render(all);
}

std::string ChatRenderer::render(const Json& messages, const Json& tools, const Json& more,
                                 const ChatOptions& options) const {
  if (options.continue_final_message && options.add_generation_prompt) {
    throw Error(
        "continue_final_message and add_generation_prompt cannot both be set: the one leaves the last "
        "message open, the other begins a new one.");
  }
  for (const Json* input : {&messages, &tools, &more}) {
    if (nests_deeper(*input, kMaxJsonDepth)) {
      throw Error("Messages, tools and chat_template_kwargs may nest at most " +
                  std::to_string(kMaxJsonDepth) + " deep.");
    }
  }
  Json variables{{"messages", messages},
                 {"tools", tools},
                 {"documents", nullptr},
                 {"add_generation_prompt", options.add_generation_prompt}};
  std::string last;
  if (options.continue_final_message) last = mark_final_message(variables["messages"]);
  if (more.is_object()) {
    for (const auto& [name, value] : more.items()) variables[name] = value;
  }
  const std::string rendered = render_variables(variables);
  return options.continue_final_message ? cut_at_mark(rendered, last) : rendered;
}

}  // namespace penstock
