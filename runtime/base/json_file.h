// Reads a JSON or text file of a model's folder whole, with a bound on its size. Pure functions; any thread.
#pragma once

#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>

namespace penstock {

/// Throws UsageError naming the file when it cannot be read or is larger than 512 MiB.
std::string read_text_file(const std::filesystem::path& path);
/// As read_text_file; also when the content is not JSON.
nlohmann::json read_json_file(const std::filesystem::path& path);
/// Throws UsageError naming `what` when `text` is not JSON.
nlohmann::json parse_json(const std::string& text, const std::string& what);

}  // namespace penstock
