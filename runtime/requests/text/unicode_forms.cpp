#include "runtime/requests/text/unicode_forms.h"

#include <utf8proc.h>

#include <algorithm>
#include <vector>

#include "runtime/base/error.h"
#include "runtime/requests/text/run_pattern.h"
#include "runtime/requests/text/unicode_versions.h"
#include "runtime/requests/text/utf8.h"

namespace penstock {
namespace {

/// Hugging Face's library has the normal forms of Unicode 9, to which younger characters are unknown: nothing
/// is done to them and they are no marks.
bool is_known(utf8proc_int32_t c) {
  static const ClassTable younger({normal_forms_since_unicode_9()});
  return younger[static_cast<char32_t>(c)] == 0;
}

int combining_class(utf8proc_int32_t c) {
  return is_known(c) ? utf8proc_get_property(c)->combining_class : 0;
}

// utf8proc sorts marks by swapping neighbours, which takes hours on a megabyte of them; so sort here.
void put_marks_in_order(std::vector<utf8proc_int32_t>& text) {
  const auto is_mark = [](utf8proc_int32_t c) { return combining_class(c) != 0; };
  for (auto at = text.begin(); at != text.end();) {
    const auto first = std::find_if(at, text.end(), is_mark);
    at = std::find_if_not(first, text.end(), is_mark);
    if (at - first > 1) {
      std::stable_sort(first, at, [](auto a, auto b) { return combining_class(a) < combining_class(b); });
    }
  }
}

/// Nothing is composed across an unknown character.
void compose(std::vector<utf8proc_int32_t>& text) {
  std::vector<utf8proc_int32_t> out;
  for (auto at = text.begin(); at != text.end();) {
    const auto end = std::find_if_not(at, text.end(), is_known);
    const utf8proc_ssize_t n = utf8proc_normalize_utf32(
        &*at, end - at, static_cast<utf8proc_option_t>(UTF8PROC_STABLE | UTF8PROC_COMPOSE));
    ensure(n >= 0, "utf8proc could not compose valid code points");
    out.insert(out.end(), at, at + n);
    at = std::find_if(end, text.end(), is_known);
    out.insert(out.end(), end, at);
  }
  text = std::move(out);
}

}  // namespace

std::string to_unicode_form(UnicodeForm form, std::string_view text) {
  if (std::all_of(text.begin(), text.end(), [](char c) { return static_cast<unsigned char>(c) < 0x80; })) {
    return std::string(text);
  }
  const bool compatible = form == UnicodeForm::nfkc || form == UnicodeForm::nfkd;
  const bool composed = form == UnicodeForm::nfc || form == UnicodeForm::nfkc;
  const auto decompose =
      static_cast<utf8proc_option_t>(UTF8PROC_DECOMPOSE | (compatible ? UTF8PROC_COMPAT : 0));
  std::vector<utf8proc_int32_t> code_points;
  code_points.reserve(text.size());
  for (const char* p = text.data(); p != text.data() + text.size();) {
    utf8proc_int32_t parts[32];  // the longest decomposition of Unicode has 18
    const auto c = static_cast<utf8proc_int32_t>(utf8::next(p));
    if (!is_known(c)) {
      code_points.push_back(c);
      continue;
    }
    const utf8proc_ssize_t n = utf8proc_decompose_char(c, parts, 32, decompose, nullptr);
    ensure(n >= 0 && n <= 32, "utf8proc could not decompose a valid code point");
    code_points.insert(code_points.end(), parts, parts + n);
  }
  put_marks_in_order(code_points);
  if (composed) compose(code_points);
  std::string out;
  out.reserve(text.size());
  for (const utf8proc_int32_t c : code_points) utf8::append(out, static_cast<char32_t>(c));
  return out;
}

}  // namespace penstock
