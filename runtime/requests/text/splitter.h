// How a text is cut where a pattern matches: Hugging Face's NormalizedString::split. A Splitter is immutable
// and may be used by several threads.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "runtime/requests/text/regex.h"
#include "runtime/requests/text/run_pattern.h"

namespace penstock {

/// What is searched for: an exact string, or a regular expression (by hand-built scanner where there is one).
class Pattern {
 public:
  static Pattern literal(std::string text);
  static Pattern regular_expression(const std::string& source);

  /// Calls `on_match(Span)` for every match, left to right.
  template <typename F>
  void for_each_match(std::string_view text, F&& on_match) const {
    if (runs_) {
      for (Span found = runs_->find(text, 0); found.begin < found.end; found = runs_->find(text, found.end))
        on_match(found);
    } else if (regex_) {
      Regex::Matches matches(*regex_, text);
      while (const std::optional<Span> found = matches.next()) on_match(*found);
    } else {
      for (size_t at = text.find(literal_); at != std::string_view::npos;
           at = text.find(literal_, at + literal_.size())) {
        on_match(Span{at, at + literal_.size()});
      }
    }
  }

  /// Must a text hold this byte, or another one for which this is true, for the pattern to match in it?
  bool needs_byte(uint8_t byte) const {
    if (runs_) return runs_->needs_byte(byte);
    return regex_ || static_cast<uint8_t>(literal_.front()) == byte;
  }

  /// False if a quick look shows that it does not match anywhere in a text that is not empty.
  bool may_match(std::string_view text) const { return !runs_ || runs_->may_match(text); }

 private:
  std::string literal_;
  std::shared_ptr<const RunPattern> runs_;
  std::shared_ptr<const Regex> regex_;
};

struct Replaced {
  std::string text;
  size_t cut_from_front = 0;  // the length of a match with which the text began
};
/// `text` with every match replaced. Throws Error when the result would be longer than `bound` bytes.
Replaced replaced(const Pattern& pattern, std::string_view text, std::string_view content, size_t bound);

enum class SplitBehavior { removed, isolated, merged_with_previous, merged_with_next, contiguous };

/// Throws UsageError for a name that Hugging Face does not have.
SplitBehavior split_behavior(const std::string& name);

/// Takes the matched and unmatched stretches of a text from left to right and gives on the pieces that the
/// behaviour makes of them, none of them empty. `Emit` is called with a Span.
template <typename Emit>
class PieceBuilder {
 public:
  PieceBuilder(SplitBehavior behavior, bool invert, Emit emit)
      : behavior_(behavior), invert_(invert), emit_(std::move(emit)) {}

  void match(Span span) {
    if (span.begin > seen_) stretch({seen_, span.begin}, invert_);
    stretch(span, !invert_);
    seen_ = span.end;
  }
  void finish(size_t text_size) {
    if (seen_ < text_size) stretch({seen_, text_size}, invert_);
    flush();
  }

 private:
  void stretch(Span span, bool is_match) {
    bool joins = false;
    switch (behavior_) {
      case SplitBehavior::removed:
        if (!is_match) give(span);
        return;
      case SplitBehavior::isolated:
        return give(span);
      case SplitBehavior::contiguous:
        joins = has_pending_ && is_match == was_match_;
        break;
      case SplitBehavior::merged_with_previous:
        joins = has_pending_ && is_match && !was_match_;
        break;
      case SplitBehavior::merged_with_next:
        joins = has_pending_ && !is_match && was_match_;
        break;
    }
    if (joins) {
      pending_.end = span.end;
    } else {
      flush();
      pending_ = span;
      has_pending_ = true;
    }
    was_match_ = is_match;
  }
  void flush() {
    if (has_pending_) give(pending_);
    has_pending_ = false;
  }
  void give(Span span) {
    if (span.begin < span.end) emit_(span);
  }

  SplitBehavior behavior_;
  bool invert_;
  Emit emit_;
  size_t seen_ = 0;
  bool was_match_ = false;
  bool has_pending_ = false;
  Span pending_{0, 0};
};

}  // namespace penstock
