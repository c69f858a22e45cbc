// Reading tokenizer.json's objects: every field is checked, and what is wrong is named by its place in the
// file. All throw UsageError.
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>

#include "runtime/requests/text/splitter.h"

namespace penstock::json_fields {

/// The "type" of a component such as {"type": "Split", ...}.
std::string type_of(const nlohmann::json& object, const std::string& place);

/// The field, or `otherwise` when it is absent or null.
bool boolean(const nlohmann::json& object, const char* name, bool otherwise);
uint64_t count(const nlohmann::json& object, const char* name, uint64_t otherwise);
std::string text(const nlohmann::json& object, const char* name, const std::string& otherwise);

std::string required_text(const nlohmann::json& object, const char* name);
const nlohmann::json& required_array(const nlohmann::json& object, const char* name);

/// {"String": s} or {"Regex": s}.
Pattern pattern(const nlohmann::json& object);

/// The single character that a field such as Metaspace's "replacement" holds.
std::string one_character(const nlohmann::json& object, const char* name, const std::string& otherwise);

/// Does Metaspace put its mark before the first word: never, always, or only at the start of the input?
enum class PrependScheme { always, never, first };
PrependScheme prepend_scheme(const nlohmann::json& metaspace);

}  // namespace penstock::json_fields
