// Reads a JSON file of a model's folder, with a bound on its size. Pure function; any thread.
#pragma once

#include <filesystem>
#include <nlohmann/json.hpp>

#include "runtime/requests/text/tokenizer.h"

namespace penstock {

/// Throws UsageError naming the file when it cannot be read, is larger than 512 MiB, or is not JSON.
std::string read_text_file(const std::filesystem::path& path);
nlohmann::json read_json_file(const std::filesystem::path& path);

/// bos_token and the like of a model's folder; nothing where no file gives them.
SpecialTokens read_special_tokens(const std::filesystem::path& folder);

}  // namespace penstock
