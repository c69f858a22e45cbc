// A model's chat template: Jinja as Hugging Face sets it up (ImmutableSandboxedEnvironment with trim_blocks
// and lstrip_blocks, loop controls, the generation tag, its own tojson, raise_exception, strftime_now).
// Immutable; any thread may render.
#pragma once

#include <filesystem>
#include <memory>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>

namespace penstock {

class ChatTemplate {
 public:
  /// Throws Error with the line where `source` is not a template.
  static std::shared_ptr<const ChatTemplate> parse(const std::string& source);
  ~ChatTemplate();

  /// `variables` is an object: messages, add_generation_prompt, tools, bos_token ... Keys keep their order.
  /// Throws Error with the template's line for everything that goes wrong, raise_exception among it; work and
  /// memory are bounded (about a second, 256 MiB, an output of 64 MiB).
  std::string render(const nlohmann::ordered_json& variables) const;

  /// The template's own text.
  const std::string& source() const;

 private:
  struct Parsed;
  explicit ChatTemplate(std::unique_ptr<const Parsed> parsed);
  std::unique_ptr<const Parsed> parsed_;
};

/// What a conversation is rendered with, beside its messages.
struct ChatOptions {
  bool add_generation_prompt = false;
  /// The last message is left open for the model to go on with.
  bool continue_final_message = false;
};

/// A template with the tokens of its model's folder, as apply_chat_template renders it.
class ChatRenderer {
 public:
  /// `override_path`: a file with a template, instead of the model's own; may be empty. The model's own is
  /// chat_template.jinja, else chat_template.json, else chat_template in tokenizer_config.json (of a named
  /// list the one named "default", or "tool_use" when a conversation brings tools). Nothing when the folder
  /// has none. Throws UsageError naming the file that cannot be read or is no template.
  static std::shared_ptr<const ChatRenderer> load(const std::filesystem::path& model_folder,
                                                  const std::filesystem::path& override_path);

  /// `messages` is an array of objects; `tools` an array, or null where there are none; `more`
  /// (chat_template_kwargs) an object or null, whose fields win over all others. The result has the
  /// template's own BOS: encode it without special tokens. Throws Error.
  std::string render(const nlohmann::ordered_json& messages, const nlohmann::ordered_json& tools,
                     const nlohmann::ordered_json& more, const ChatOptions& options) const;

  /// Renders with these variables and the folder's tokens; what `variables` does not have stays undefined.
  std::string render_variables(const nlohmann::ordered_json& variables) const;

 private:
  std::shared_ptr<const ChatTemplate> template_;
  std::shared_ptr<const ChatTemplate> tool_template_;     // may be null
  std::shared_ptr<const nlohmann::ordered_json> tokens_;  // bos_token, eos_token ...
};

}  // namespace penstock
