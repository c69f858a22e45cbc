// GPT-2's byte alphabet: every byte has a printable letter, so that any text can be spelled in a JSON
// vocabulary (bytes_to_unicode in OpenAI's GPT-2 encoder.py). Space is Ġ, newline is Ċ.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace penstock {

/// The letter of a byte, U+0021 to U+0143.
char32_t letter_of_byte(uint8_t byte);
/// The byte of a letter; nothing for a character outside the alphabet.
std::optional<uint8_t> byte_of_letter(char32_t letter);

/// Every byte of `bytes` as its letter, in UTF-8.
std::string to_byte_letters(std::string_view bytes);
/// The reverse; nothing when `letters` holds a character outside the alphabet. `letters` is valid UTF-8.
std::optional<std::string> from_byte_letters(std::string_view letters);

}  // namespace penstock
