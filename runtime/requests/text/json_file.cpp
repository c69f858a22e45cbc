#include "runtime/requests/text/json_file.h"

#include <fstream>

#include "runtime/base/error.h"

namespace penstock {
namespace {

constexpr uintmax_t kMaxBytes = uintmax_t{512} << 20;

}  // namespace

std::string read_text_file(const std::filesystem::path& path) {
  std::error_code failed;
  const uintmax_t size = std::filesystem::file_size(path, failed);
  if (failed) throw UsageError(path.string() + " cannot be read: " + failed.message() + ".");
  if (size > kMaxBytes) {
    throw UsageError(path.string() + " has " + std::to_string(size) + " bytes, expected at most " + std::to_string(kMaxBytes) + ".");
  }
  std::ifstream in(path, std::ios::binary);
  std::string text(size, '\0');
  in.read(text.data(), static_cast<std::streamsize>(size));
  if (!in) throw UsageError(path.string() + " cannot be read.");
  return text;
}

nlohmann::json read_json_file(const std::filesystem::path& path) {
  try {
    return nlohmann::json::parse(read_text_file(path));
  } catch (const nlohmann::json::exception& error) {
    throw UsageError(path.string() + " is not valid JSON: " + error.what() + ".");
  }
}

}  // namespace penstock
