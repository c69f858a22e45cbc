#include "runtime/requests/text/template/lexer.h"

#include <algorithm>
#include <cctype>
#include <cstring>

#include "runtime/base/error.h"
#include "runtime/requests/text/template/python_text.h"
#include "runtime/requests/text/utf8.h"

namespace penstock::jinja {
namespace {

using Kind = Token::Kind;

constexpr size_t kMaxSource = size_t{4} << 20;
constexpr size_t kMaxTokens = 500'000;

bool is_digit(char c) {
  return c >= '0' && c <= '9';
}
bool is_name_start(char c) {
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_' ||
         static_cast<unsigned char>(c) >= 0x80;
}

/// Every kind of line end as \n, and one at the very end left out.
std::string with_plain_newlines(const std::string& source) {
  std::string out;
  out.reserve(source.size());
  for (size_t i = 0; i < source.size(); ++i) {
    if (source[i] == '\r') {
      out += '\n';
      if (i + 1 < source.size() && source[i + 1] == '\n') ++i;
    } else {
      out += source[i];
    }
  }
  if (!out.empty() && out.back() == '\n') out.pop_back();
  return out;
}

class Lexer {
 public:
  explicit Lexer(const std::string& source) : s_(with_plain_newlines(source)) {}

  std::vector<Token> run() {
    while (at_ < s_.size()) {
      const size_t tag = next_tag(at_);
      const std::string_view text = std::string_view(s_).substr(at_, tag - at_);
      if (tag == s_.size()) {
        put(Kind::data, std::string(text));
        break;
      }
      take_data(text, tag);
      switch (s_[tag + 1]) {
        case '{':
          variable(tag);
          break;
        case '#':
          comment(tag);
          break;
        default:
          block(tag);
          break;
      }
    }
    put(Kind::end, "");
    return std::move(tokens_);
  }

 private:
  size_t next_tag(size_t from) const {
    for (size_t at = from; (at = s_.find('{', at)) != std::string::npos; ++at) {
      if (at + 1 < s_.size() && (s_[at + 1] == '{' || s_[at + 1] == '%' || s_[at + 1] == '#')) return at;
    }
    return s_.size();
  }

  void put(Kind kind, std::string text) {
    if (tokens_.size() >= kMaxTokens) fail_at(line_, "the template has too many tokens.");
    tokens_.push_back({kind, std::move(text), line_});
  }

  void skip_to(size_t to) {
    line_ += static_cast<int>(
        std::count(s_.begin() + static_cast<ptrdiff_t>(at_), s_.begin() + static_cast<ptrdiff_t>(to), '\n'));
    at_ = to;
  }

  /// The text before a tag, cut as the tag's sign and lstrip_blocks say.
  std::string_view before_tag(std::string_view text, size_t tag) const {
    const char sign = tag + 2 < s_.size() ? s_[tag + 2] : ' ';
    if (sign == '-') {
      text = python::strip_right(text);
    } else if (sign != '+' && s_[tag + 1] != '{') {
      const size_t newline = text.rfind('\n');
      const size_t line_start = newline == std::string_view::npos ? 0 : newline + 1;
      if ((line_start > 0 || line_starting_) && python::strip_left(text.substr(line_start)).empty()) {
        text = text.substr(0, line_start);
      }
    }
    return text;
  }

  void take_data(std::string_view text, size_t tag) {
    const std::string_view kept = before_tag(text, tag);
    if (!kept.empty()) put(Kind::data, std::string(kept));
    skip_to(tag);
  }

  size_t behind_sign(size_t tag) const {
    return tag + 2 < s_.size() && (s_[tag + 2] == '-' || s_[tag + 2] == '+') ? tag + 3 : tag + 2;
  }

  /// Where the source goes on behind a closing mark at `close`: "-%}" eats all white space, "%}" one newline.
  size_t behind_close(size_t close, bool trims_newline) const {
    const char sign = s_[close];
    size_t at = close + (sign == '-' || sign == '+' ? 3 : 2);
    if (sign == '-') {
      at = skip_spaces(at);
    } else if (sign != '+' && trims_newline && at < s_.size() && s_[at] == '\n') {
      ++at;
    }
    return at;
  }

  void leave_tag(size_t to) {
    skip_to(to);
    line_starting_ = s_[to - 1] == '\n';
  }

  void comment(size_t tag) {
    const size_t inner = behind_sign(tag);
    const size_t end = s_.find("#}", inner);
    if (inner == s_.size()) return skip_to(inner);  // Jinja lets a template end in an opening mark
    if (end == std::string::npos) fail_at(line_, "the comment that begins here has no '#}'.");
    const bool signed_end = end > inner && (s_[end - 1] == '-' || s_[end - 1] == '+');
    leave_tag(behind_close(signed_end ? end - 1 : end, true));
  }

  void variable(size_t tag) {
    put(Kind::variable_begin, "{{");
    skip_to(behind_sign(tag));
    leave_tag(inside("}}", Kind::variable_end));
  }

  void block(size_t tag) {
    if (raw(tag)) return;
    put(Kind::block_begin, "{%");
    skip_to(behind_sign(tag));
    leave_tag(inside("%}", Kind::block_end));
  }

  size_t skip_spaces(size_t at) const {
    return s_.size() - python::strip_left(std::string_view(s_).substr(at)).size();
  }

  /// If the words `name` and a closing mark follow `at`: the place of the closing mark.
  size_t lone_word(size_t at, std::string_view name) const {
    at = skip_spaces(at);
    if (s_.compare(at, name.size(), name) != 0) return std::string::npos;
    at = skip_spaces(at + name.size());
    const size_t mark = at < s_.size() && (s_[at] == '-' || s_[at] == '+') ? at + 1 : at;
    return s_.compare(mark, 2, "%}") == 0 ? at : std::string::npos;
  }

  bool raw(size_t tag) {
    const size_t open = lone_word(behind_sign(tag), "raw");
    if (open == std::string::npos || s_[open] == '+') return false;
    const int begun = line_;
    leave_tag(behind_close(open, false));
    for (size_t end = at_; (end = s_.find("{%", end)) != std::string::npos; ++end) {
      const size_t close = lone_word(behind_sign(end), "endraw");
      if (close == std::string::npos) continue;
      take_data(std::string_view(s_).substr(at_, end - at_), end);
      leave_tag(behind_close(close, true));
      return true;
    }
    fail_at(begun, "the raw block that begins here has no endraw.");
  }

  /// Tokens up to the closing mark; returns where the source goes on.
  size_t inside(std::string_view mark, Kind end_kind) {
    const int begun = line_;
    std::string open_brackets;
    while (true) {
      skip_to(skip_spaces(at_));
      if (at_ >= s_.size()) fail_at(begun, "the tag that begins here has no '" + std::string(mark) + "'.");
      if (open_brackets.empty()) {
        const bool is_block = end_kind == Kind::block_end;
        const size_t sign = s_[at_] == '-' || (is_block && s_[at_] == '+') ? 1 : 0;
        if (s_.compare(at_ + sign, 2, mark) == 0) {
          put(end_kind, std::string(mark));
          return behind_close(at_, is_block);
        }
      }
      token(open_brackets);
    }
  }

  void token(std::string& open_brackets) {
    const char c = s_[at_];
    if (is_digit(c)) return number();
    if (is_name_start(c)) {
      size_t end = at_;
      while (end < s_.size() && (is_name_start(s_[end]) || is_digit(s_[end]))) ++end;
      put(Kind::name, s_.substr(at_, end - at_));
      return skip_to(end);
    }
    if (c == '\'' || c == '"') return string(c);
    for (const char* two : {"//", "**", "==", "!=", ">=", "<="}) {
      if (s_.compare(at_, 2, two) == 0) {
        put(Kind::op, two);
        return skip_to(at_ + 2);
      }
    }
    if (std::strchr("+-/*%~[](){}><=.:|,;", c) == nullptr || c == '\0') {
      fail_at(line_, "unexpected character '" + s_.substr(at_, utf8::length(c)) + "'.");
    }
    if (c == '(' || c == '[' || c == '{') open_brackets += c == '(' ? ')' : c == '[' ? ']' : '}';
    if (c == ')' || c == ']' || c == '}') {
      if (open_brackets.empty() || open_brackets.back() != c)
        fail_at(line_, std::string("unexpected '") + c + "'.");
      open_brackets.pop_back();
    }
    put(Kind::op, std::string(1, c));
    skip_to(at_ + 1);
  }

  void number() {
    size_t end = at_;
    bool real = false;
    const auto digits = [&] {
      while (end < s_.size() &&
             (is_digit(s_[end]) || (s_[end] == '_' && end + 1 < s_.size() && is_digit(s_[end + 1]))))
        ++end;
    };
    digits();
    if (end - at_ == 1 && s_[at_] == '0' && end < s_.size() && std::strchr("xXoObB", s_[end]) != nullptr &&
        s_[end] != '\0') {
      ++end;
      while (end < s_.size() && (std::isxdigit(static_cast<unsigned char>(s_[end])) != 0 || s_[end] == '_'))
        ++end;
    } else {
      const bool behind_dot = at_ > 0 && s_[at_ - 1] == '.';
      if (!behind_dot && end + 1 < s_.size() && s_[end] == '.' && is_digit(s_[end + 1])) {
        real = true;
        ++end;
        digits();
      }
      size_t exponent = end;
      if (!behind_dot && exponent < s_.size() && (s_[exponent] == 'e' || s_[exponent] == 'E')) {
        ++exponent;
        if (exponent < s_.size() && (s_[exponent] == '+' || s_[exponent] == '-')) ++exponent;
        if (exponent < s_.size() && is_digit(s_[exponent])) {
          real = true;
          end = exponent;
          digits();
        }
      }
    }
    std::string text = s_.substr(at_, end - at_);
    text.erase(std::remove(text.begin(), text.end(), '_'), text.end());
    put(real ? Kind::real : Kind::integer, text);
    skip_to(end);
  }

  void string(char quote) {
    size_t end = at_ + 1;
    while (end < s_.size() && s_[end] != quote) end += s_[end] == '\\' ? 2 : 1;
    if (end >= s_.size()) fail_at(line_, "the string that begins here has no end.");
    put(Kind::string, unescaped(std::string_view(s_).substr(at_ + 1, end - at_ - 1)));
    skip_to(end + 1);
  }

  /// Python's escapes.
  std::string unescaped(std::string_view text) const {
    std::string out;
    for (size_t i = 0; i < text.size(); ++i) {
      if (text[i] != '\\' || i + 1 == text.size()) {
        out += text[i];
        continue;
      }
      const char c = text[++i];
      constexpr std::string_view kNames = "abfnrtv\\'\"";
      constexpr std::string_view kMeanings = "\a\b\f\n\r\t\v\\'\"";
      if (const size_t known = kNames.find(c); known != std::string_view::npos) {
        out += kMeanings[known];
      } else if (c == '\n') {
        continue;
      } else if (c >= '0' && c <= '7') {
        char32_t value = 0;
        size_t n = 0;
        for (; n < 3 && i + n < text.size() && text[i + n] >= '0' && text[i + n] <= '7'; ++n)
          value = value * 8 + static_cast<char32_t>(text[i + n] - '0');
        i += n - 1;
        utf8::append(out, value);
      } else if (c == 'x' || c == 'u' || c == 'U') {
        const size_t n = c == 'x' ? 2 : c == 'u' ? 4 : 8;
        char32_t value = hex(text, i + 1, n);
        i += n;
        // Two escaped surrogates are one character; alone they have no UTF-8.
        if (value >= 0xD800 && value <= 0xDBFF && text.substr(i + 1, 2) == "\\u") {
          const char32_t low = hex(text, i + 3, 4);
          if (low >= 0xDC00 && low <= 0xDFFF) {
            value = 0x10000 + ((value - 0xD800) << 10) + (low - 0xDC00);
            i += 6;
          }
        }
        if (value > 0x10FFFF || (value >= 0xD800 && value <= 0xDFFF))
          fail_at(line_, "a string has an escape that is no character.");
        utf8::append(out, value);
      } else {
        out += '\\';
        out += c;
      }
    }
    return out;
  }

  char32_t hex(std::string_view text, size_t from, size_t n) const {
    char32_t value = 0;
    for (size_t i = from; i < from + n; ++i) {
      const char c = i < text.size() ? text[i] : ' ';
      const int digit = c >= '0' && c <= '9'   ? c - '0'
                        : c >= 'a' && c <= 'f' ? c - 'a' + 10
                        : c >= 'A' && c <= 'F' ? c - 'A' + 10
                                               : -1;
      if (digit < 0) fail_at(line_, "a string has an escape with too few hexadecimal digits.");
      value = value * 16 + static_cast<char32_t>(digit);
    }
    return value;
  }

  std::string s_;
  size_t at_ = 0;
  int line_ = 1;
  bool line_starting_ = true;
  std::vector<Token> tokens_;
};

}  // namespace

void fail_at(int line, const std::string& what) {
  throw Error("The chat template failed at line " + std::to_string(line) + ": " + what);
}

std::vector<Token> tokenize(const std::string& source) {
  if (source.size() > kMaxSource) {
    throw Error("The chat template has " + std::to_string(source.size()) + " bytes, expected at most " +
                std::to_string(kMaxSource) + ".");
  }
  if (const auto bad = utf8::first_invalid(source)) {
    throw Error("The chat template is not UTF-8 at byte " + std::to_string(*bad) + ".");
  }
  return Lexer(source).run();
}

}  // namespace penstock::jinja
