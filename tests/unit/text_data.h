// Where the text tests find their data: tests/data, and the shared folder beside the repository where there
// is one.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <random>
#include <string>
#include <vector>

#include "runtime/requests/text/utf8.h"

namespace penstock::testing_data {

inline std::filesystem::path data_folder() {
  return std::filesystem::path(PENSTOCK_SOURCE_DIR) / "tests" / "data";
}

/// PENSTOCK_SHARED, else ../shared. May not exist.
inline std::filesystem::path shared_folder() {
  const char* set = std::getenv("PENSTOCK_SHARED");
  return set != nullptr ? std::filesystem::path(set)
                        : std::filesystem::path(PENSTOCK_SOURCE_DIR) / ".." / "shared";
}

inline nlohmann::ordered_json read_json(const std::filesystem::path& path) {
  std::ifstream in(path);
  return nlohmann::ordered_json::parse(in);
}

/// The folders directly in `parent`, sorted; none if it does not exist.
inline std::vector<std::filesystem::path> folders_in(const std::filesystem::path& parent) {
  std::vector<std::filesystem::path> out;
  if (!std::filesystem::exists(parent)) return out;
  for (const auto& entry : std::filesystem::directory_iterator(parent)) {
    if (entry.is_directory()) out.push_back(entry.path());
  }
  std::sort(out.begin(), out.end());
  return out;
}

/// Up to `most` characters from all of Unicode, with a liking for ASCII, spaces and marks.
inline std::string random_text(std::mt19937& random, size_t most) {
  std::string out;
  for (size_t n = random() % (most + 1); n > 0; --n) {
    char32_t c = 0;
    switch (random() % 8) {
      case 0:
        c = U" \n\t\r\u00a0\u3000\u2581'"[random() % 8];
        break;
      case 1:
        c = 0x300 + random() % 0x70;
        break;
      case 2:
        c = 0x4E00 + random() % 0x400;
        break;
      case 3:
        c = 0x1F300 + random() % 0x200;
        break;
      case 4:
        c = random() % 0x110000;
        break;
      case 5:
        c = 0xA0 + random() % 0x500;
        break;
      default:
        c = ' ' + random() % 95;
    }
    if (c >= 0xD800 && c <= 0xDFFF) c = 'x';
    utf8::append(out, c);
  }
  return out;
}

}  // namespace penstock::testing_data
