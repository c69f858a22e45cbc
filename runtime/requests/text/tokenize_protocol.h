// 'penstock tokenize': one JSON object a line in, one answer a line out. Pure functions of their input.
#pragma once

#include <memory>
#include <string>

#include "runtime/requests/text/tokenizer.h"

namespace penstock {

class ChatRenderer;

/// Answers lines; any thread may call `answer`.
class TokenizeProtocol {
 public:
  /// `chat` may be null: lines with messages are then answered by an error.
  TokenizeProtocol(std::shared_ptr<const Tokenizer> tokenizer, std::shared_ptr<const ChatRenderer> chat);

  /// {"text": s, "add_special_tokens": b}        -> {"ids": [...]}
  /// {"ids": [...], "skip_special_tokens": b}    -> {"text": s}
  /// {"messages": [...], "tools": [...], "add_generation_prompt": b, "chat_template_kwargs": {...}} ->
  /// {"rendered": s} and {"error": s} for a line that cannot be answered. Both booleans default to false.
  std::string answer(const std::string& json_line) const;

 private:
  std::shared_ptr<const Tokenizer> tokenizer_;
  std::shared_ptr<const ChatRenderer> chat_;
};

}  // namespace penstock
