#include "runtime/requests/text/utf8.h"

#include <cstring>

namespace penstock::utf8 {
namespace {

constexpr std::string_view kReplacement = "\xEF\xBF\xBD";

struct Parsed {
  size_t bytes;  // of the well-formed sequence, or of the maximal ill-formed part
  bool valid;
  bool complete;  // false: the text ended inside a sequence that could still become valid
};

// Unicode 15, table 3-7: the second byte's range depends on the first.
Parsed parse(const unsigned char* p, size_t left) {
  const unsigned char lead = p[0];
  if (lead < 0x80) return {1, true, true};
  if (lead < 0xC2 || lead > 0xF4) return {1, false, true};
  const size_t need = lead < 0xE0 ? 2 : lead < 0xF0 ? 3 : 4;
  unsigned char low = 0x80;
  unsigned char high = 0xBF;
  if (lead == 0xE0) low = 0xA0;
  if (lead == 0xED) high = 0x9F;
  if (lead == 0xF0) low = 0x90;
  if (lead == 0xF4) high = 0x8F;
  for (size_t i = 1; i < need; ++i) {
    if (i == left) return {i, false, false};
    if (p[i] < low || p[i] > high) return {i, false, true};
    low = 0x80;
    high = 0xBF;
  }
  return {need, true, true};
}

size_t ascii_prefix(const char* p, size_t n) {
  size_t i = 0;
  for (; i + 8 <= n; i += 8) {
    uint64_t word;
    std::memcpy(&word, p + i, 8);
    if ((word & 0x8080808080808080ULL) != 0) break;
  }
  while (i < n && static_cast<unsigned char>(p[i]) < 0x80) ++i;
  return i;
}

}  // namespace

std::optional<size_t> first_invalid(std::string_view text) {
  for (size_t at = 0; at < text.size();) {
    at += ascii_prefix(text.data() + at, text.size() - at);
    if (at == text.size()) break;
    const Parsed one = parse(reinterpret_cast<const unsigned char*>(text.data()) + at, text.size() - at);
    if (!one.valid) return at;
    at += one.bytes;
  }
  return std::nullopt;
}

void append(std::string& out, char32_t c) {
  if (c < 0x80) {
    out += static_cast<char>(c);
  } else if (c < 0x800) {
    out += static_cast<char>(0xC0 | c >> 6);
    out += static_cast<char>(0x80 | (c & 0x3F));
  } else if (c < 0x10000) {
    out += static_cast<char>(0xE0 | c >> 12);
    out += static_cast<char>(0x80 | (c >> 6 & 0x3F));
    out += static_cast<char>(0x80 | (c & 0x3F));
  } else {
    out += static_cast<char>(0xF0 | c >> 18);
    out += static_cast<char>(0x80 | (c >> 12 & 0x3F));
    out += static_cast<char>(0x80 | (c >> 6 & 0x3F));
    out += static_cast<char>(0x80 | (c & 0x3F));
  }
}

std::u32string decode(std::string_view text) {
  std::u32string out;
  out.reserve(text.size());
  for (const char* p = text.data(); p != text.data() + text.size();) out += next(p);
  return out;
}

std::string encode(std::u32string_view code_points) {
  std::string out;
  out.reserve(code_points.size());
  for (const char32_t c : code_points) append(out, c);
  return out;
}

void LossyDecoder::push(std::string_view bytes, std::string& out) {
  std::string joined;
  if (!held_.empty()) {
    joined = held_;
    joined += bytes;
    bytes = joined;
    held_.clear();
  }
  for (size_t at = 0; at < bytes.size();) {
    const size_t ascii = ascii_prefix(bytes.data() + at, bytes.size() - at);
    out.append(bytes, at, ascii);
    at += ascii;
    if (at == bytes.size()) break;
    const Parsed one = parse(reinterpret_cast<const unsigned char*>(bytes.data()) + at, bytes.size() - at);
    if (!one.complete) {
      held_ = bytes.substr(at);
      return;
    }
    out += one.valid ? bytes.substr(at, one.bytes) : kReplacement;
    at += one.bytes;
  }
}

void LossyDecoder::finish(std::string& out) {
  if (!held_.empty()) out += kReplacement;
  held_.clear();
}

}  // namespace penstock::utf8
