// Python's str, on UTF-8: what its methods do, by code point. Pure functions; `text` is always valid UTF-8.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace penstock::jinja::python {

bool is_space(char32_t c);
bool is_printable(char32_t c);
bool is_letter(char32_t c);   // str.isalpha
bool is_decimal(char32_t c);  // str.isdecimal
bool is_digit(char32_t c);    // str.isdigit: also superscripts and the like
bool is_numeric(char32_t c);  // str.isnumeric
bool is_upper(char32_t c);
bool is_lower(char32_t c);

size_t length(std::string_view text);
/// The byte offset of code point `index`; text.size() when there are not so many.
size_t offset(std::string_view text, size_t index);

/// Linear in both, however they repeat. std::string_view::npos when there is none.
size_t find(std::string_view text, std::string_view what, size_t from = 0);
size_t rfind(std::string_view text, std::string_view what);
size_t count(std::string_view text, std::string_view what);
/// At most `limit` of them, all if negative. `bound` is the most bytes the result may have; nothing beyond
/// it.
std::optional<std::string> replace(std::string_view text, std::string_view old, std::string_view with,
                                   int64_t limit, size_t bound);

/// The characters to strip; white space when absent.
using Strip = std::optional<std::string_view>;
std::string_view strip_left(std::string_view text, Strip characters = std::nullopt);
std::string_view strip_right(std::string_view text, Strip characters = std::nullopt);
std::string_view strip(std::string_view text, Strip characters = std::nullopt);

/// At most `limit` cuts, all if negative; without a separator at runs of white space. The separator is not
/// empty.
std::vector<std::string> split(std::string_view text, Strip separator, int64_t limit);
std::vector<std::string> rsplit(std::string_view text, Strip separator, int64_t limit);
std::vector<std::string> splitlines(std::string_view text, bool keep_ends);

std::string upper(std::string_view text);
std::string lower(std::string_view text);
std::string capitalize(std::string_view text);
std::string title(std::string_view text);
std::string swapcase(std::string_view text);

/// & < > ' " as HTML entities.
std::string escape_html(std::string_view text);

/// repr(text): 'it' or "it's".
std::string repr(std::string_view text);

}  // namespace penstock::jinja::python
