#include "runtime/requests/text/pre_tokenizer.h"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "runtime/base/error.h"
#include "runtime/requests/text/byte_alphabet.h"
#include "runtime/requests/text/json_fields.h"
#include "runtime/requests/text/splitter.h"
#include "runtime/requests/text/unicode_versions.h"
#include "runtime/requests/text/utf8.h"

namespace penstock {
namespace {

using nlohmann::json;
using Step = PreTokenizer::Step;
using Walk = PreTokenizer::Walk;
using Steps = std::vector<std::unique_ptr<Step>>;
using json_fields::PrependScheme;

// GPT-2's pattern, as Hugging Face's ByteLevel has it built in.
constexpr const char* kGpt2 = R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";

/// Gives the pieces of `text` on.
template <typename Cut>
void cut_with(SplitBehavior behavior, bool invert, std::string_view text, bool at_start, Walk& next,
              Cut&& cut) {
  PieceBuilder pieces(behavior, invert, [&](Span span) {
    next.give(text.substr(span.begin, span.end - span.begin), at_start && span.begin == 0);
  });
  cut(pieces);
  pieces.finish(text.size());
}

class SplitStep : public Step {
 public:
  SplitStep(Pattern pattern, SplitBehavior behavior, bool invert)
      : pattern_(std::move(pattern)), behavior_(behavior), invert_(invert) {}
  void run(std::string_view text, bool at_start, Walk& next) const override {
    if (behavior_ == SplitBehavior::isolated) return isolate(text, at_start, next);
    cut_with(behavior_, invert_, text, at_start, next,
             [&](auto& pieces) { pattern_.for_each_match(text, [&](Span span) { pieces.match(span); }); });
  }
  bool concerns(uint8_t byte) const override { return invert_ || pattern_.needs_byte(byte); }
  bool may_cut(std::string_view text) const override { return invert_ || pattern_.may_match(text); }

 private:
  /// The common case, where matches and what lies between them are given on alike.
  void isolate(std::string_view text, bool at_start, Walk& next) const {
    size_t seen = 0;
    pattern_.for_each_match(text, [&](Span span) {
      if (span.begin > seen) next.give(text.substr(seen, span.begin - seen), at_start && seen == 0);
      next.give(text.substr(span.begin, span.end - span.begin), at_start && span.begin == 0);
      seen = span.end;
    });
    if (seen < text.size()) next.give(text.substr(seen), at_start && seen == 0);
  }
  Pattern pattern_;
  SplitBehavior behavior_;
  bool invert_;
};

/// Splits at single characters of a class.
class CharacterStep : public Step {
 public:
  CharacterStep(const CodePointRanges& delimiters, SplitBehavior behavior)
      : table_({delimiters}), behavior_(behavior) {}
  void run(std::string_view text, bool at_start, Walk& next) const override {
    cut_with(behavior_, false, text, at_start, next, [&](auto& pieces) {
      const char* begin = text.data();
      for (const char* p = begin; p != begin + text.size();) {
        const auto at = static_cast<size_t>(p - begin);
        if (table_[utf8::next(p)] != 0) pieces.match({at, static_cast<size_t>(p - begin)});
      }
    });
  }
  bool concerns(uint8_t byte) const override { return table_.may_begin(byte, 1); }

 private:
  ClassTable table_;
  SplitBehavior behavior_;
};

/// \w+ and [^\w\s]+ in the sense of Rust's regex crate; white space goes.
class WhitespaceStep : public Step {
 public:
  WhitespaceStep() : table_({rust_word_code_points(), code_points_named("Space")}) {}
  void run(std::string_view text, bool at_start, Walk& next) const override {
    const char* begin = text.data();
    const char* end = begin + text.size();
    const auto kind = [&](const char* p) {
      const uint32_t bits = table_[utf8::next(p)];
      return (bits & 1U) != 0 ? 0 : (bits & 2U) != 0 ? 2 : 1;
    };
    for (const char* p = begin; p != end;) {
      const char* first = p;
      const int same = kind(p);
      while (p != end && kind(p) == same) p += utf8::length(*p);
      if (same == 2) continue;
      next.give({first, static_cast<size_t>(p - first)}, at_start && first == begin);
    }
  }

 private:
  ClassTable table_;
};

class ByteLevelStep : public Step {
 public:
  ByteLevelStep(bool add_prefix_space, bool use_regex, bool is_last)
      : add_prefix_space_(add_prefix_space), is_last_(is_last) {
    if (use_regex) pattern_ = Pattern::regular_expression(kGpt2);
  }
  void run(std::string_view text, bool at_start, Walk& next) const override {
    std::string spaced;
    if (add_prefix_space_ && text.front() != ' ') {
      spaced.reserve(text.size() + 1);
      spaced += ' ';
      spaced += text;
      text = spaced;
    }
    if (!pattern_) return give(text, at_start, next);
    PieceBuilder pieces(SplitBehavior::isolated, false, [&](Span span) {
      give(text.substr(span.begin, span.end - span.begin), at_start && span.begin == 0, next);
    });
    pattern_->for_each_match(text, [&](Span span) { pieces.match(span); });
    pieces.finish(text.size());
  }
  bool concerns(uint8_t /*byte*/) const override { return add_prefix_space_ || !is_last_ || pattern_; }

 private:
  void give(std::string_view text, bool at_start, Walk& next) const {
    if (is_last_) return next.give(text, at_start);
    const std::string letters = to_byte_letters(text);
    next.give(letters, at_start);
  }
  bool add_prefix_space_;
  bool is_last_;
  std::optional<Pattern> pattern_;
};

class MetaspaceStep : public Step {
 public:
  MetaspaceStep(std::string mark, PrependScheme scheme, bool split)
      : mark_(std::move(mark)), pattern_(Pattern::literal(mark_)), scheme_(scheme), split_(split) {}
  void run(std::string_view text, bool at_start, Walk& next) const override {
    std::string marked;
    marked.reserve(text.size() + text.size() / 2 + mark_.size());
    for (const char c : text) c == ' ' ? marked += mark_ : marked += c;
    const bool prepends = scheme_ == PrependScheme::always || (scheme_ == PrependScheme::first && at_start);
    if (prepends && !marked.starts_with(mark_)) marked.insert(0, mark_);
    if (!split_) return next.give(marked, at_start);
    cut_with(SplitBehavior::merged_with_next, false, marked, at_start, next,
             [&](auto& pieces) { pattern_.for_each_match(marked, [&](Span span) { pieces.match(span); }); });
  }

 private:
  std::string mark_;
  Pattern pattern_;
  PrependScheme scheme_;
  bool split_;
};

/// Rust's char::is_numeric, which is at Unicode 17.
CodePointRanges numeric_code_points() {
  CodePointRanges all = code_points_named("N");
  all.insert(all.end(), {{0x11DE0, 0x11DE9}, {0x16FF4, 0x16FF6}});
  return united(std::move(all));
}

/// The object's steps with every Sequence unfolded.
void flatten(const json& object, std::vector<const json*>& out, int depth) {
  if (json_fields::type_of(object, "pre_tokenizer") != "Sequence") {
    out.push_back(&object);
  } else {
    if (depth > 8) throw UsageError("tokenizer.json: pre_tokenizer nests more than 8 sequences.");
    for (const json& inner : json_fields::required_array(object, "pretokenizers"))
      flatten(inner, out, depth + 1);
  }
  if (out.size() > PreTokenizer::kMaxSteps) {
    throw UsageError("tokenizer.json: pre_tokenizer has more than " +
                     std::to_string(PreTokenizer::kMaxSteps) + " steps.");
  }
}

std::unique_ptr<Step> make_step(const json& object, bool is_last) {
  const std::string type = json_fields::type_of(object, "pre_tokenizer");
  if (type == "Split") {
    return std::make_unique<SplitStep>(json_fields::pattern(object),
                                       split_behavior(json_fields::required_text(object, "behavior")),
                                       json_fields::boolean(object, "invert", false));
  }
  if (type == "ByteLevel") {
    return std::make_unique<ByteLevelStep>(json_fields::boolean(object, "add_prefix_space", true),
                                           json_fields::boolean(object, "use_regex", true), is_last);
  }
  if (type == "Digits") {
    const bool each = json_fields::boolean(object, "individual_digits", false);
    return std::make_unique<CharacterStep>(numeric_code_points(),
                                           each ? SplitBehavior::isolated : SplitBehavior::contiguous);
  }
  if (type == "Metaspace") {
    return std::make_unique<MetaspaceStep>(json_fields::one_character(object, "replacement", "\u2581"),
                                           json_fields::prepend_scheme(object),
                                           json_fields::boolean(object, "split", true));
  }
  if (type == "Whitespace") return std::make_unique<WhitespaceStep>();
  if (type == "WhitespaceSplit") {
    return std::make_unique<CharacterStep>(code_points_named("Space"), SplitBehavior::removed);
  }
  if (type == "Punctuation") {
    return std::make_unique<CharacterStep>(punctuation_of_unicode_8(),
                                           split_behavior(json_fields::text(object, "behavior", "Isolated")));
  }
  throw UsageError(
      "tokenizer.json: the pre_tokenizer '" + type +
      "' is not supported; expected Split, ByteLevel, Digits, Metaspace, Whitespace, WhitespaceSplit, "
      "Punctuation or Sequence.");
}

}  // namespace

PreTokenizer PreTokenizer::parse(const json& object) {
  PreTokenizer made;
  if (object.is_null()) return made;
  std::vector<const json*> objects;
  flatten(object, objects, 0);
  for (size_t i = 0; i < objects.size(); ++i)
    made.steps_.push_back(make_step(*objects[i], i + 1 == objects.size()));
  for (size_t byte = 0; byte < 256; ++byte) {
    for (size_t i = 0; i < made.steps_.size(); ++i) {
      if (made.steps_[i]->concerns(static_cast<uint8_t>(byte))) made.concerned_by_[byte] |= uint64_t{1} << i;
    }
  }
  const auto respelling = std::count_if(objects.begin(), objects.end(), [](const json* o) {
    return json_fields::type_of(*o, "pre_tokenizer") == "ByteLevel";
  });
  if (respelling > 2)
    throw UsageError(
        "tokenizer.json: pre_tokenizer has more than two ByteLevel steps; each doubles the text.");
  made.ends_in_bytes_ =
      !objects.empty() && json_fields::type_of(*objects.back(), "pre_tokenizer") == "ByteLevel";
  return made;
}

}  // namespace penstock
