#include "runtime/requests/text/splitter.h"

#include "runtime/base/error.h"

namespace penstock {

Pattern Pattern::literal(std::string text) {
  if (text.empty())
    throw UsageError("A pattern of tokenizer.json is an empty string; it would match everywhere.");
  Pattern p;
  p.literal_ = std::move(text);
  return p;
}

Pattern Pattern::regular_expression(const std::string& source) {
  Pattern p;
  p.regex_ = std::make_shared<const Regex>(source);  // also checks what the scanner's parser lets through
  p.runs_ = RunPattern::compile(source);
  return p;
}

Replaced replaced(const Pattern& pattern, std::string_view text, std::string_view content, size_t bound) {
  Replaced made;
  std::string& out = made.text;
  size_t seen = 0;
  pattern.for_each_match(text, [&](Span span) {
    if (span.begin == 0) made.cut_from_front = span.end;
    out += text.substr(seen, span.begin - seen);
    out += content;
    seen = span.end;
    if (out.size() > bound) {
      throw Error("A Replace of tokenizer.json makes more than " + std::to_string(bound) +
                  " bytes of a text of " + std::to_string(text.size()) + ".");
    }
  });
  out += text.substr(seen);
  return made;
}

SplitBehavior split_behavior(const std::string& name) {
  if (name == "Removed") return SplitBehavior::removed;
  if (name == "Isolated") return SplitBehavior::isolated;
  if (name == "MergedWithPrevious") return SplitBehavior::merged_with_previous;
  if (name == "MergedWithNext") return SplitBehavior::merged_with_next;
  if (name == "Contiguous") return SplitBehavior::contiguous;
  throw UsageError(
      "The split behavior '" + name +
      "' is not known; expected Removed, Isolated, MergedWithPrevious, MergedWithNext or Contiguous.");
}

}  // namespace penstock
