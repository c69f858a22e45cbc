// Reading a JSON file whole, for this floor's own files.
#pragma once

#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <string>

#include "runtime/base/error.h"

namespace penstock {

inline nlohmann::json parse_json(const std::string& text, const std::string& what) {
  try {
    return nlohmann::json::parse(text);
  } catch (const nlohmann::json::exception& e) {
    throw UsageError(what + ": expected JSON: " + e.what());
  }
}

/// Throws UsageError naming the file when it cannot be read, is larger than 64 MiB, or is not JSON.
inline nlohmann::json read_json_file(const std::filesystem::path& path) {
  constexpr std::uintmax_t kLargest = 64U << 20;
  std::error_code failed;
  const auto size = std::filesystem::file_size(path, failed);
  if (failed) throw UsageError(path.string() + ": cannot be read: " + failed.message());
  if (size > kLargest)
    throw UsageError(path.string() + ": expected at most 64 MiB of JSON, found " + std::to_string(size) +
                     " bytes");
  std::string text(size, '\0');
  std::ifstream file(path, std::ios::binary);
  if (!file.read(text.data(), static_cast<std::streamsize>(size)))
    throw UsageError(path.string() + ": cannot be read; check its permissions");
  return parse_json(text, path.string());
}

}  // namespace penstock
