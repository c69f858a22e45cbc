// Checks of one field of a batch line. What they throw becomes the row's error: the field, what was expected,
// what was found. Pure functions.
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

namespace penstock {

/// Thrown while a line is parsed; never leaves parse_batch_line.
struct FieldError {
  std::string message;
  std::string field;
};

namespace field {

using Json = nlohmann::ordered_json;

/// JSON as a message shows it: ASCII, at most 80 characters.
std::string shown(const Json& value);
[[noreturn]] void reject(const std::string& name, const std::string& expected, const Json& found);

int64_t whole_number(const std::string& name, const Json& value, int64_t low, int64_t high);
float number(const std::string& name, const Json& value, double low, double high, const char* expected);
bool truth(const std::string& name, const Json& value);
std::string text(const std::string& name, const Json& value);
/// A list of whole numbers from 0.
std::vector<int32_t> token_ids(const std::string& name, const Json& value);
/// A list of strings, none empty.
std::vector<std::string> words(const std::string& name, const Json& value);

}  // namespace field
}  // namespace penstock
