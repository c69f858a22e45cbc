#include "runtime/base/json_file.h"

#include <fstream>

#include "runtime/base/error.h"

namespace penstock {

std::string read_text_file(const std::filesystem::path& path) {
  constexpr std::uintmax_t kLargest = std::uintmax_t{512} << 20;
  std::error_code failed;
  const std::uintmax_t size = std::filesystem::file_size(path, failed);
  if (failed) throw UsageError(path.string() + ": cannot be read: " + failed.message());
  if (size > kLargest)
    throw UsageError(path.string() + ": expected at most " + std::to_string(kLargest) + " bytes, found " +
                     std::to_string(size));
  std::string text(size, '\0');
  std::ifstream file(path, std::ios::binary);
  if (!file.read(text.data(), static_cast<std::streamsize>(size)))
    throw UsageError(path.string() + ": cannot be read; check its permissions");
  return text;
}

nlohmann::json parse_json(const std::string& text, const std::string& what) {
  try {
    return nlohmann::json::parse(text);
  } catch (const nlohmann::json::exception& e) {
    throw UsageError(what + ": expected JSON: " + e.what());
  }
}

nlohmann::json read_json_file(const std::filesystem::path& path) {
  return parse_json(read_text_file(path), path.string());
}

}  // namespace penstock
