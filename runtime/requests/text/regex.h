// Regular expressions in Oniguruma's Ruby syntax, the engine and the defaults of Hugging Face's tokenizers,
// and the sets of code points that Oniguruma's names (\p{L}, \s) stand for. A Regex may be used by several
// threads at once.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

struct re_pattern_buffer;

namespace penstock {

/// A half-open range of bytes.
struct Span {
  size_t begin;
  size_t end;
};

class Regex {
 public:
  /// Throws UsageError when Oniguruma does not accept the pattern.
  explicit Regex(const std::string& pattern);

  /// Walks the matches in one text, which must outlive it, by the rules of Hugging Face's find_iter: left to
  /// right, without overlap, no empty match directly behind another match.
  class Matches {
   public:
    Matches(const Regex& regex, std::string_view text);
    ~Matches();
    Matches(const Matches&) = delete;
    Matches& operator=(const Matches&) = delete;
    /// Throws Error when the search takes too many steps (a pattern that backtracks without end on this
    /// text).
    std::optional<Span> next();

   private:
    struct Scratch;
    const Regex& regex_;
    std::string_view text_;
    size_t from_ = 0;
    std::optional<size_t> last_end_;
    std::unique_ptr<Scratch> scratch_;
  };

 private:
  struct Free {
    void operator()(re_pattern_buffer* regex) const;
  };
  std::string pattern_;
  std::unique_ptr<re_pattern_buffer, Free> regex_;
};

/// Sorted, disjoint, inclusive ranges of code points.
using CodePointRanges = std::vector<std::pair<char32_t, char32_t>>;

/// What \p{name} matches; empty when Oniguruma knows no such name. "Space", "Digit" and "Word" are \s, \d and
/// \w.
CodePointRanges code_points_named(const std::string& name);

/// What Rust's regex crate means by \w: Alphabetic, marks, decimal digits, connectors and joiners. Hugging
/// Face uses that engine, not Oniguruma, for its Whitespace pre-tokenizer and for single_word.
CodePointRanges rust_word_code_points();

/// Sorts and joins ranges.
CodePointRanges united(CodePointRanges ranges);
/// Every code point outside `ranges`, which are sorted and disjoint.
CodePointRanges complement(const CodePointRanges& ranges);
bool contains(const CodePointRanges& ranges, char32_t code_point);

}  // namespace penstock
