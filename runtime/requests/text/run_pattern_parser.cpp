#include "runtime/requests/text/run_pattern_parser.h"

#include <algorithm>

#include "runtime/requests/text/utf8.h"

namespace penstock {
namespace {

using Element = RunPattern::Element;
using Kind = Element::Kind;

constexpr size_t kMaxClasses = 32;
constexpr uint32_t kNoLimit = UINT32_MAX;

// Thrown to leave the parser, never further: the pattern is for Oniguruma.
struct OutsideSubset {};

class Parser {
 public:
  explicit Parser(const std::string& pattern) : text_(utf8::decode(pattern)) {}

  ParsedRunPattern parse() {
    do result_.alternatives.push_back(alternative());
    while (take('|'));
    if (at_ != text_.size()) throw OutsideSubset();
    return std::move(result_);
  }

 private:
  bool done() const { return at_ == text_.size(); }
  bool looking_at(const char32_t* what) const {
    return text_.compare(at_, std::char_traits<char32_t>::length(what), what) == 0;
  }
  bool take(char32_t c) {
    if (done() || text_[at_] != c) return false;
    ++at_;
    return true;
  }
  bool take(const char32_t* what) {
    if (!looking_at(what)) return false;
    at_ += std::char_traits<char32_t>::length(what);
    return true;
  }
  char32_t one() {
    if (done()) throw OutsideSubset();
    return text_[at_++];
  }
  void expect(char32_t c) {
    if (!take(c)) throw OutsideSubset();
  }

  RunPattern::Alternative alternative() {
    RunPattern::Alternative out;
    while (!done() && text_[at_] != '|' && text_[at_] != ')') out.push_back(element());
    if (out.empty()) throw OutsideSubset();
    return out;
  }

  Element element() {
    Element e;
    if (take(U"(?i:")) return words(true);
    if (take(U"(?:")) return words(false);
    if (looking_at(U"(?!") || looking_at(U"(?=")) {
      e.kind = text_[at_ + 2] == '!' ? Kind::not_followed_by : Kind::followed_by;
      at_ += 3;
      e.bit = class_bit(character_class());
      expect(')');
      return e;
    }
    if (take('$')) {  // Ruby: the end of the text or of any line
      e.kind = Kind::end_of_line;
      e.bit = class_bit({{'\n', '\n'}});
      return e;
    }
    e.bit = class_bit(character_class());
    quantifier(e);
    return e;
  }

  // A group whose alternatives are words: "'s|'t|'re)" behind its opening.
  Element words(bool any_case) {
    Element e;
    e.kind = Kind::words;
    do {
      std::vector<uint32_t> word;
      bool behind_s = false;
      while (!done() && text_[at_] != '|' && text_[at_] != ')') {
        CodePointRanges one_class = character_class();
        if (any_case) {
          one_class = with_other_case(one_class);
          if (behind_s && (contains(one_class, 's') || contains(one_class, 't'))) throw OutsideSubset();
          behind_s = contains(one_class, 's');
        }
        word.push_back(class_bit(one_class));
      }
      if (word.empty()) throw OutsideSubset();
      e.words.push_back(std::move(word));
    } while (take('|'));
    expect(')');
    if (take('?')) {
      e.min = 0;
      e.keeps_all = take('+');
      if (!done() && (text_[at_] == '?' || text_[at_] == '*')) throw OutsideSubset();
    }
    reject_quantifier();
    return e;
  }

  // What Oniguruma's case folding adds to ASCII characters: two letters also stand for the long s and the
  // Kelvin sign. It folds ff, fi, fl, ss and st into one character as well; no word in use holds them, so
  // they are refused.
  static CodePointRanges with_other_case(const CodePointRanges& one_class) {
    CodePointRanges out;
    for (const auto& [first, last] : one_class) {
      if (last >= 0x80) throw OutsideSubset();
      for (char32_t c = first; c <= last; ++c) {
        out.emplace_back(c, c);
        const char32_t lower = c >= 'A' && c <= 'Z' ? c + 32 : c;
        if (lower < 'a' || lower > 'z') continue;
        if (lower == 'f') throw OutsideSubset();
        out.emplace_back(lower, lower);
        out.emplace_back(lower - 32, lower - 32);
        if (lower == 's') out.emplace_back(0x17F, 0x17F);
        if (lower == 'k') out.emplace_back(0x212A, 0x212A);
      }
    }
    return united(std::move(out));
  }

  void reject_quantifier() const {
    if (!done() && (text_[at_] == '?' || text_[at_] == '*' || text_[at_] == '+' || text_[at_] == '{'))
      throw OutsideSubset();
  }

  void quantifier(Element& e) {
    if (take('?')) {
      e.min = 0;
    } else if (take('*')) {
      e.min = 0;
      e.max = kNoLimit;
    } else if (take('+')) {
      e.max = kNoLimit;
    } else if (take('{')) {
      e.min = number();
      e.max = take(',') ? (looking_at(U"}") ? kNoLimit : number()) : e.min;
      expect('}');
      if (e.max == 0 || e.max < e.min) throw OutsideSubset();
      if (e.min == 1 && take('+')) e.max = kNoLimit;  // Ruby reads x{1,3}+ as (?:x{1,3})+, which is x+
      return reject_quantifier();
    } else {
      return;
    }
    e.keeps_all = take('+');
    reject_quantifier();
  }

  uint32_t number() {
    uint32_t value = 0;
    const size_t first = at_;
    while (!done() && text_[at_] >= '0' && text_[at_] <= '9' && value < 100000)
      value = value * 10 + (text_[at_++] - '0');
    if (at_ == first || value >= 100000) throw OutsideSubset();
    return value;
  }

  CodePointRanges character_class() {
    const char32_t c = one();
    switch (c) {
      case '\\':
        return escape_outside_brackets();
      case '[':
        return bracket();
      case '(':
      case ')':
      case '*':
      case '+':
      case '?':
      case '{':
      case '}':
      case '^':
      case '$':
      case '.':
      case '|':
        throw OutsideSubset();
      default:
        return {{c, c}};
    }
  }

  /// Outside of brackets Oniguruma's \w, and \p{Word}, take the superscript digits and the fractions of
  /// Latin-1 for letters.
  CodePointRanges escape_outside_brackets() {
    const CodePointRanges ranges = escape();
    CodePointRanges letters = word();
    const bool is_word = ranges == letters;
    if (!is_word && ranges != complement(letters)) return ranges;
    letters.insert(letters.end(), {{0xB2, 0xB3}, {0xB9, 0xB9}, {0xBC, 0xBE}});
    letters = united(std::move(letters));
    return is_word ? letters : complement(letters);
  }

  CodePointRanges escape() {
    const char32_t c = one();
    switch (c) {
      case 'r':
        return {{'\r', '\r'}};
      case 'n':
        return {{'\n', '\n'}};
      case 't':
        return {{'\t', '\t'}};
      case 's':
        return named("Space");
      case 'S':
        return complement(named("Space"));
      case 'd':
        return named("Nd");
      case 'w':
        return word();
      case 'p':
      case 'P':
        return property(c == 'P');
      default:
        if (c >= 0x80 || (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z'))
          throw OutsideSubset();
        return {{c, c}};
    }
  }

  CodePointRanges property(bool negated) {
    std::string name;
    if (take('{')) {
      if (take('^')) negated = !negated;
      while (!looking_at(U"}")) name += ascii(one());
      expect('}');
    } else {
      throw OutsideSubset();  // \pL is not Ruby syntax
    }
    CodePointRanges ranges = name == "Word" ? word() : named(name);
    return negated ? complement(ranges) : ranges;
  }

  /// With the letters, marks and digits that the library's own "Word" may be too old for.
  static CodePointRanges word() {
    CodePointRanges all = named("Word");
    for (const char* name : {"L", "M", "Nd"}) {
      const CodePointRanges one = named(name);
      all.insert(all.end(), one.begin(), one.end());
    }
    return united(std::move(all));
  }

  static char ascii(char32_t c) {
    if (c >= 0x80) throw OutsideSubset();
    return static_cast<char>(c);
  }

  static CodePointRanges named(const std::string& name) {
    CodePointRanges ranges = code_points_named(name);
    if (ranges.empty()) throw OutsideSubset();
    return ranges;
  }

  CodePointRanges bracket() {
    const bool negated = take('^');
    CodePointRanges out;
    while (!looking_at(U"]") || out.empty()) {
      if (done() || looking_at(U"[") || looking_at(U"&&") || looking_at(U"]")) throw OutsideSubset();
      CodePointRanges item = take('\\') ? escape() : literal();
      if (looking_at(U"-") && at_ + 1 < text_.size() && text_[at_ + 1] != ']') {
        ++at_;
        if (looking_at(U"[")) throw OutsideSubset();
        const CodePointRanges last = take('\\') ? escape() : literal();
        if (item.size() != 1 || last.size() != 1 || item[0].first != item[0].second ||
            last[0].first != last[0].second || item[0].first > last[0].first) {
          throw OutsideSubset();
        }
        item[0].second = last[0].first;
      }
      out.insert(out.end(), item.begin(), item.end());
    }
    expect(']');
    out = united(std::move(out));
    return negated ? complement(out) : out;
  }

  CodePointRanges literal() {
    const char32_t c = one();
    return {{c, c}};
  }

  uint32_t class_bit(const CodePointRanges& ranges) {
    auto& classes = result_.classes;
    const auto known = std::find(classes.begin(), classes.end(), ranges);
    const auto index = static_cast<size_t>(known - classes.begin());
    if (known == classes.end()) {
      if (classes.size() == kMaxClasses) throw OutsideSubset();
      classes.push_back(ranges);
    }
    return uint32_t{1} << index;
  }

  std::u32string text_;
  size_t at_ = 0;
  ParsedRunPattern result_;
};

}  // namespace

std::optional<ParsedRunPattern> parse_run_pattern(const std::string& pattern) {
  try {
    return Parser(pattern).parse();
  } catch (const OutsideSubset&) {
    return std::nullopt;
  }
}

}  // namespace penstock
