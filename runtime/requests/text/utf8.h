// UTF-8, as the text front end needs it. Functions that decode trust their input to be valid: text is checked
// once at the border (first_invalid). Pure functions; any thread may call.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace penstock::utf8 {

/// The byte offset of the first sequence that is not well-formed UTF-8 (surrogates and overlong forms are
/// not).
std::optional<size_t> first_invalid(std::string_view text);

/// Bytes in the sequence that `lead` begins, 1 for anything that begins none.
inline size_t length(char lead) {
  const auto b = static_cast<unsigned char>(lead);
  return b < 0xC0 ? 1 : b < 0xE0 ? 2 : b < 0xF0 ? 3 : 4;
}

/// The code point at `p`, which begins a valid sequence; moves `p` past it.
inline char32_t next(const char*& p) {
  const auto* b = reinterpret_cast<const unsigned char*>(p);
  if (b[0] < 0x80) return p += 1, b[0];
  if (b[0] < 0xE0) return p += 2, (b[0] & 0x1FU) << 6 | (b[1] & 0x3FU);
  if (b[0] < 0xF0) return p += 3, (b[0] & 0x0FU) << 12 | (b[1] & 0x3FU) << 6 | (b[2] & 0x3FU);
  return p += 4, (b[0] & 0x07U) << 18 | (b[1] & 0x3FU) << 12 | (b[2] & 0x3FU) << 6 | (b[3] & 0x3FU);
}

/// The start of the character that ends just before `p`.
inline const char* previous(const char* p) {
  do --p;
  while ((static_cast<unsigned char>(*p) & 0xC0U) == 0x80U);
  return p;
}

void append(std::string& out, char32_t code_point);
std::u32string decode(std::string_view text);
std::string encode(std::u32string_view code_points);

/// Turns any bytes into valid UTF-8 piece by piece; each maximal ill-formed part becomes one U+FFFD, as in
/// Rust's String::from_utf8_lossy and in WHATWG. A sequence that may still be completed is held back.
class LossyDecoder {
 public:
  void push(std::string_view bytes, std::string& out);
  void finish(std::string& out);

 private:
  std::string held_;  // a proper prefix of one well-formed sequence, at most 3 bytes
};

}  // namespace penstock::utf8
