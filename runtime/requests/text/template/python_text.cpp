#include "runtime/requests/text/template/python_text.h"

#include <utf8proc.h>

#include <algorithm>
#include <cstdio>

#include "runtime/requests/text/utf8.h"

namespace penstock::jinja::python {
namespace {

constexpr size_t kShortNeedle = 32;

utf8proc_category_t category(char32_t c) {
  return utf8proc_category(static_cast<utf8proc_int32_t>(c));
}

/// Knuth, Morris, Pratt: the border of every prefix.
std::vector<size_t> borders(std::string_view what) {
  std::vector<size_t> out(what.size(), 0);
  for (size_t i = 1, k = 0; i < what.size(); ++i) {
    while (k > 0 && what[i] != what[k]) k = out[k - 1];
    if (what[i] == what[k]) ++k;
    out[i] = k;
  }
  return out;
}

/// Calls f(code point) for each.
template <typename F>
void each(std::string_view text, F&& f) {
  for (const char* p = text.data(); p != text.data() + text.size();) f(utf8::next(p));
}

/// Characters whose upper case is more than one; utf8proc maps one to one. Without classical Greek's.
struct Expansion {
  char32_t from;
  std::string_view upper, title;
};
constexpr Expansion kExpansions[] = {{0xDF, "SS", "Ss"},
                                     {0x149, "\u02BCN", "\u02BCN"},
                                     {0x1F0, "J\u030C", "J\u030C"},
                                     {0x390, "\u0399\u0308\u0301", "\u0399\u0308\u0301"},
                                     {0x3B0, "\u03A5\u0308\u0301", "\u03A5\u0308\u0301"},
                                     {0x587, "\u0535\u0552", "\u0535\u0582"},
                                     {0xFB00, "FF", "Ff"},
                                     {0xFB01, "FI", "Fi"},
                                     {0xFB02, "FL", "Fl"},
                                     {0xFB03, "FFI", "Ffi"},
                                     {0xFB04, "FFL", "Ffl"},
                                     {0xFB05, "ST", "St"},
                                     {0xFB06, "ST", "St"}};

const Expansion* expansion_of(char32_t c) {
  const auto* found = std::find_if(std::begin(kExpansions), std::end(kExpansions),
                                   [&](const Expansion& e) { return e.from == c; });
  return found != std::end(kExpansions) ? found : nullptr;
}

void append_upper(std::string& out, char32_t c) {
  if (const Expansion* expansion = expansion_of(c)) {
    out += expansion->upper;
  } else {
    utf8::append(out, static_cast<char32_t>(utf8proc_toupper(static_cast<utf8proc_int32_t>(c))));
  }
}

void append_title(std::string& out, char32_t c) {
  if (const Expansion* expansion = expansion_of(c)) {
    out += expansion->title;
  } else {
    utf8::append(out, static_cast<char32_t>(utf8proc_totitle(static_cast<utf8proc_int32_t>(c))));
  }
}

void append_lower(std::string& out, char32_t c) {
  if (c == 0x130) {
    out += "i\u0307";
  } else {
    utf8::append(out, static_cast<char32_t>(utf8proc_tolower(static_cast<utf8proc_int32_t>(c))));
  }
}

bool is_cased(char32_t c) {
  return is_upper(c) || is_lower(c) || category(c) == UTF8PROC_CATEGORY_LT;
}

/// Greek sigma at the end of a word has a form of its own.
bool is_final_sigma(std::string_view text, const char* behind) {
  const char* sigma = utf8::previous(behind);
  if (sigma == text.data()) return false;
  const char* before = utf8::previous(sigma);
  if (!is_cased(utf8::next(before))) return false;
  if (behind == text.data() + text.size()) return true;
  return !is_cased(utf8::next(behind));
}

}  // namespace

bool is_space(char32_t c) {
  return c == ' ' || (c >= 9 && c <= 13) || (c >= 0x1C && c <= 0x1F) || c == 0x85 || c == 0xA0 ||
         c == 0x1680 || (c >= 0x2000 && c <= 0x200A) || c == 0x2028 || c == 0x2029 || c == 0x202F ||
         c == 0x205F || c == 0x3000;
}

bool is_printable(char32_t c) {
  if (c < 0x80) return c >= 0x20 && c < 0x7F;
  switch (category(c)) {
    case UTF8PROC_CATEGORY_CN:
    case UTF8PROC_CATEGORY_CC:
    case UTF8PROC_CATEGORY_CF:
    case UTF8PROC_CATEGORY_CS:
    case UTF8PROC_CATEGORY_CO:
    case UTF8PROC_CATEGORY_ZS:
    case UTF8PROC_CATEGORY_ZL:
    case UTF8PROC_CATEGORY_ZP:
      return false;
    default:
      return true;
  }
}

bool is_letter(char32_t c) {
  const auto k = category(c);
  return k >= UTF8PROC_CATEGORY_LU && k <= UTF8PROC_CATEGORY_LO;
}
bool is_decimal(char32_t c) {
  return category(c) == UTF8PROC_CATEGORY_ND;
}
bool is_digit(char32_t c) {
  return is_decimal(c) || c == 0xB2 || c == 0xB3 || c == 0xB9 || c == 0x2070 ||
         (c >= 0x2074 && c <= 0x2079) || (c >= 0x2080 && c <= 0x2089) || (c >= 0x2460 && c <= 0x2468) ||
         (c >= 0x2474 && c <= 0x247C) || (c >= 0x2488 && c <= 0x2490) || (c >= 0x2776 && c <= 0x277E);
}
bool is_numeric(char32_t c) {
  const auto k = category(c);
  return k == UTF8PROC_CATEGORY_ND || k == UTF8PROC_CATEGORY_NL || k == UTF8PROC_CATEGORY_NO;
}
bool is_upper(char32_t c) {
  return utf8proc_isupper(static_cast<utf8proc_int32_t>(c)) != 0;
}
bool is_lower(char32_t c) {
  return utf8proc_islower(static_cast<utf8proc_int32_t>(c)) != 0;
}

size_t length(std::string_view text) {
  return static_cast<size_t>(std::count_if(
      text.begin(), text.end(), [](char c) { return (static_cast<unsigned char>(c) & 0xC0U) != 0x80U; }));
}

size_t offset(std::string_view text, size_t index) {
  size_t at = 0;
  for (; index > 0 && at < text.size(); --index) at += utf8::length(text[at]);
  return at;
}

size_t find(std::string_view text, std::string_view what, size_t from) {
  if (what.size() <= kShortNeedle) return text.find(what, from);
  const std::vector<size_t> border = borders(what);
  for (size_t i = from, k = 0; i < text.size(); ++i) {
    while (k > 0 && text[i] != what[k]) k = border[k - 1];
    if (text[i] == what[k]) ++k;
    if (k == what.size()) return i + 1 - k;
  }
  return std::string_view::npos;
}

size_t rfind(std::string_view text, std::string_view what) {
  if (what.size() <= kShortNeedle) return text.rfind(what);
  const std::string reversed_text(text.rbegin(), text.rend());
  const std::string reversed_what(what.rbegin(), what.rend());
  const size_t at = find(reversed_text, reversed_what);
  return at == std::string_view::npos ? at : text.size() - at - what.size();
}

size_t count(std::string_view text, std::string_view what) {
  if (what.empty()) return length(text) + 1;
  return split(text, what, -1).size() - 1;
}

std::optional<std::string> replace(std::string_view text, std::string_view old, std::string_view with,
                                   int64_t limit, size_t bound) {
  std::string out;
  size_t at = 0;
  const auto unlimited = [&] { return limit < 0; };
  if (old.empty()) {
    for (; (unlimited() || limit > 0) && out.size() <= bound; --limit) {
      out += with;
      if (at == text.size()) return out.size() <= bound ? std::optional(out) : std::nullopt;
      const size_t n = utf8::length(text[at]);
      out += text.substr(at, n);
      at += n;
    }
  } else {
    for (; unlimited() || limit > 0; --limit) {
      const size_t found = find(text, old, at);
      if (found == std::string_view::npos) break;
      out += text.substr(at, found - at);
      out += with;
      at = found + old.size();
      if (out.size() > bound) return std::nullopt;
    }
  }
  if (out.size() + text.size() - at > bound) return std::nullopt;
  out += text.substr(at);
  return out;
}

std::string_view strip_left(std::string_view text, Strip characters) {
  while (!text.empty()) {
    const size_t n = utf8::length(text.front());
    const char* p = text.data();
    if (characters ? characters->find(text.substr(0, n)) == std::string_view::npos : !is_space(utf8::next(p)))
      break;
    text.remove_prefix(n);
  }
  return text;
}

std::string_view strip_right(std::string_view text, Strip characters) {
  while (!text.empty()) {
    const char* last = utf8::previous(text.data() + text.size());
    const auto n = static_cast<size_t>(text.data() + text.size() - last);
    const char* p = last;
    if (characters ? characters->find(std::string_view(last, n)) == std::string_view::npos
                   : !is_space(utf8::next(p)))
      break;
    text.remove_suffix(n);
  }
  return text;
}

std::string_view strip(std::string_view text, Strip characters) {
  return strip_right(strip_left(text, characters), characters);
}

std::vector<std::string> split(std::string_view text, Strip separator, int64_t limit) {
  std::vector<std::string> out;
  if (separator) {
    size_t at = 0;
    for (; limit != 0; --limit) {
      const size_t found = find(text, *separator, at);
      if (found == std::string_view::npos) break;
      out.emplace_back(text.substr(at, found - at));
      at = found + separator->size();
    }
    out.emplace_back(text.substr(at));
    return out;
  }
  for (text = strip_left(text); !text.empty(); text = strip_left(text)) {
    if (limit-- == 0) {
      out.emplace_back(text);  // Python keeps the white space at its end
      break;
    }
    size_t end = 0;
    for (const char* p = text.data(); end < text.size() && !is_space(utf8::next(p));)
      end += utf8::length(text[end]);
    out.emplace_back(text.substr(0, end));
    text.remove_prefix(end);
  }
  return out;
}

std::vector<std::string> rsplit(std::string_view text, Strip separator, int64_t limit) {
  if (limit < 0) return split(text, separator, -1);
  std::vector<std::string> out;
  if (separator) {
    for (; limit != 0; --limit) {
      const size_t found = rfind(text, *separator);
      if (found == std::string_view::npos) break;
      out.emplace_back(text.substr(found + separator->size()));
      text = text.substr(0, found);
    }
    out.emplace_back(text);
  } else {
    for (text = strip_right(text); !text.empty(); text = strip_right(text)) {
      if (limit-- == 0) {
        out.emplace_back(text);
        break;
      }
      const char* begin = text.data();
      const char* p = begin + text.size();
      while (p != begin) {
        const char* before = utf8::previous(p);
        const char* read = before;
        if (is_space(utf8::next(read))) break;
        p = before;
      }
      out.emplace_back(text.substr(static_cast<size_t>(p - begin)));
      text = text.substr(0, static_cast<size_t>(p - begin));
    }
  }
  std::reverse(out.begin(), out.end());
  return out;
}

std::vector<std::string> splitlines(std::string_view text, bool keep_ends) {
  std::vector<std::string> out;
  const char* end = text.data() + text.size();
  const char* line = text.data();
  for (const char* p = line; p != end;) {
    const char* at = p;
    const char32_t c = utf8::next(p);
    const bool ends =
        (c >= 0xA && c <= 0xD) || (c >= 0x1C && c <= 0x1E) || c == 0x85 || c == 0x2028 || c == 0x2029;
    if (!ends) continue;
    if (c == '\r' && p != end && *p == '\n') ++p;
    out.emplace_back(line, keep_ends ? p : at);
    line = p;
  }
  if (line != end) out.emplace_back(line, end);
  return out;
}

std::string upper(std::string_view text) {
  std::string out;
  each(text, [&](char32_t c) { append_upper(out, c); });
  return out;
}

std::string lower(std::string_view text) {
  std::string out;
  for (const char* p = text.data(); p != text.data() + text.size();) {
    const char32_t c = utf8::next(p);
    if (c == 0x3A3) {
      out += is_final_sigma(text, p) ? "ς" : "σ";
    } else {
      append_lower(out, c);
    }
  }
  return out;
}

std::string capitalize(std::string_view text) {
  if (text.empty()) return {};
  const size_t first = utf8::length(text.front());
  std::string out;
  each(text.substr(0, first), [&](char32_t c) { append_title(out, c); });
  return out + lower(text.substr(first));
}

std::string title(std::string_view text) {
  std::string out;
  bool inside = false;
  each(text, [&](char32_t c) {
    inside ? append_lower(out, c) : append_title(out, c);
    inside = is_cased(c);
  });
  return out;
}

std::string swapcase(std::string_view text) {
  std::string out;
  each(text, [&](char32_t c) { is_upper(c) ? append_lower(out, c) : append_upper(out, c); });
  return out;
}

std::string escape_html(std::string_view text) {
  std::string out;
  for (const char c : text) {
    switch (c) {
      case '&':
        out += "&amp;";
        break;
      case '<':
        out += "&lt;";
        break;
      case '>':
        out += "&gt;";
        break;
      case '\'':
        out += "&#39;";
        break;
      case '"':
        out += "&#34;";
        break;
      default:
        out += c;
    }
  }
  return out;
}

std::string repr(std::string_view text) {
  const bool has_single = text.find('\'') != std::string_view::npos;
  const char quote = has_single && text.find('"') == std::string_view::npos ? '"' : '\'';
  std::string out(1, quote);
  each(text, [&](char32_t c) {
    if (c == static_cast<char32_t>(quote) || c == '\\') {
      out += '\\';
      out += static_cast<char>(c);
    } else if (c == '\n') {
      out += "\\n";
    } else if (c == '\r') {
      out += "\\r";
    } else if (c == '\t') {
      out += "\\t";
    } else if (is_printable(c)) {
      utf8::append(out, c);
    } else {
      char escape[16];
      std::snprintf(escape, sizeof(escape),
                    c < 0x100     ? "\\x%02x"
                    : c < 0x10000 ? "\\u%04x"
                                  : "\\U%08x",
                    static_cast<unsigned>(c));
      out += escape;
    }
  });
  return out + quote;
}

}  // namespace penstock::jinja::python
