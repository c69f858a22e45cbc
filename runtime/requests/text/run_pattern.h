// A hand-built scanner for the regular expressions that tokenizers split text with: alternatives of runs of
// characters of a class, short words such as 's, and one-character look-ahead. It compiles that subset of
// Oniguruma's Ruby syntax into class tables and matches it with the same leftmost, greedy, backtracking
// rules, 20 to 100 times as fast (the GPT-2, Llama 3, Qwen 2, DeepSeek, o200k and Tekken patterns are all in
// it). Anything else is left to Regex.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "runtime/requests/text/regex.h"

namespace penstock {

/// For every code point, up to 32 bits: bit i is membership in class i. Two-stage table.
class ClassTable {
 public:
  explicit ClassTable(const std::vector<CodePointRanges>& classes);
  uint32_t operator[](char32_t c) const {
    return pages_[static_cast<size_t>(page_of_[c >> 8]) * 256 + (c & 0xFF)];
  }
  const uint32_t* ascii() const { return ascii_.data(); }
  /// Does any character whose UTF-8 begins with `byte` lie in one of the classes of `bits`?
  bool may_begin(uint8_t byte, uint32_t bits) const { return (first_byte_[byte] & bits) != 0; }

 private:
  std::array<uint32_t, 128> ascii_{};
  std::array<uint32_t, 256> first_byte_{};
  std::vector<uint16_t> page_of_;
  std::vector<uint32_t> pages_;
};

class RunPattern {
 public:
  /// Nothing when the pattern is outside the subset, or could match the empty string.
  static std::shared_ptr<const RunPattern> compile(const std::string& pattern);

  /// The leftmost match that begins at `from` or later; an empty Span at the text's end when there is none.
  /// Throws Error when backtracking takes more than a fixed multiple of the text's length in steps.
  Span find(std::string_view text, size_t from) const;

  /// A match has at least one character whose UTF-8 begins with a byte for which this is true.
  bool needs_byte(uint8_t byte) const { return table_.may_begin(byte, needed_); }

  /// False if a quick look shows that it does not match anywhere in a text that is not empty: a pattern such
  /// as \s+$ needs a line to end behind one of its characters.
  bool may_match(std::string_view text) const;

  struct Element {
    enum class Kind : uint8_t { run, words, followed_by, not_followed_by, end_of_line };
    Kind kind = Kind::run;
    bool keeps_all = false;                    // run: never gives characters back
    uint32_t bit = 0;                          // run, look-ahead: the class
    uint32_t min = 1, max = 1;                 // run: in characters; words: min 0 makes them optional
    std::vector<std::vector<uint32_t>> words;  // each a sequence of classes; the first that fits is taken
  };
  using Alternative = std::vector<Element>;
  /// The alternatives that most matches come from have the form A?B+C*, with any of A and C absent. They are
  /// matched without the general machine.
  struct Simple {
    uint32_t head = 0;  // classes; 0: absent
    uint32_t body = 0;  // 0: the alternative has another form
    uint32_t tail = 0;
  };

 private:
  struct Matcher;
  RunPattern(std::vector<Alternative> alternatives, const std::vector<CodePointRanges>& classes);

  std::string pattern_;
  std::vector<Alternative> alternatives_;
  std::vector<Simple> simple_;  // by alternative
  ClassTable table_;
  uint32_t before_line_end_ = 0;  // not 0: every match is a run of these classes up to the end of a line
  uint32_t needed_ = 0;           // classes, of which every match has a character in one
  std::array<uint32_t, 256> starts_{};  // by first byte: the alternatives that may begin with it
};

}  // namespace penstock
