#include "runtime/requests/text/byte_alphabet.h"

#include <array>

#include "runtime/requests/text/utf8.h"

namespace penstock {
namespace {

constexpr bool printable(uint32_t b) {
  return (b >= 0x21 && b <= 0x7E) || (b >= 0xA1 && b <= 0xAC) || b >= 0xAE;
}

// Printable bytes stand for themselves, the others for U+0100 onwards in their order.
constexpr auto kLetters = [] {
  std::array<char32_t, 256> letters{};
  char32_t next = 0x100;
  for (uint32_t b = 0; b < 256; ++b) letters[b] = printable(b) ? b : next++;
  return letters;
}();

constexpr auto kBytes = [] {
  std::array<int16_t, 0x144> bytes{};
  for (auto& b : bytes) b = -1;
  for (int16_t b = 0; b < 256; ++b) bytes[kLetters[static_cast<size_t>(b)]] = b;
  return bytes;
}();

}  // namespace

char32_t letter_of_byte(uint8_t byte) {
  return kLetters[byte];
}

std::optional<uint8_t> byte_of_letter(char32_t letter) {
  if (letter >= kBytes.size() || kBytes[letter] < 0) return std::nullopt;
  return static_cast<uint8_t>(kBytes[letter]);
}

std::string to_byte_letters(std::string_view bytes) {
  std::string out;
  out.reserve(bytes.size() * 2);
  for (const char b : bytes) utf8::append(out, letter_of_byte(static_cast<uint8_t>(b)));
  return out;
}

std::optional<std::string> from_byte_letters(std::string_view letters) {
  std::string out;
  out.reserve(letters.size());
  for (const char* p = letters.data(); p != letters.data() + letters.size();) {
    const std::optional<uint8_t> byte = byte_of_letter(utf8::next(p));
    if (!byte) return std::nullopt;
    out += static_cast<char>(*byte);
  }
  return out;
}

}  // namespace penstock
