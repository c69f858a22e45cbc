// The four normalization forms of Unicode (UAX #15), in time n log n whatever the text holds.
#pragma once

#include <string>
#include <string_view>

namespace penstock {

enum class UnicodeForm { nfc, nfd, nfkc, nfkd };

/// `text` must be valid UTF-8.
std::string to_unicode_form(UnicodeForm form, std::string_view text);

}  // namespace penstock
