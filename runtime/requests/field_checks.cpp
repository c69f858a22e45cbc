#include "runtime/requests/field_checks.h"

namespace penstock::field {

std::string shown(const Json& value) {
  std::string text = value.dump(-1, ' ', true, Json::error_handler_t::replace);
  if (text.size() > 80) text = text.substr(0, 77) + "...";
  return text;
}

void reject(const std::string& name, const std::string& expected, const Json& found) {
  throw FieldError{name + ": expected " + expected + ", found " + shown(found), name};
}

int64_t whole_number(const std::string& name, const Json& value, int64_t low, int64_t high) {
  const std::string expected = "a whole number from " + std::to_string(low) + " to " + std::to_string(high);
  if (value.is_number_unsigned() && value.get<uint64_t>() > static_cast<uint64_t>(INT64_MAX))
    reject(name, expected, value);
  if (!value.is_number_integer()) reject(name, expected, value);
  const auto number = value.get<int64_t>();
  if (number < low || number > high) reject(name, expected, value);
  return number;
}

float number(const std::string& name, const Json& value, double low, double high, const char* expected) {
  if (!value.is_number()) reject(name, expected, value);
  const auto found = value.get<double>();
  if (!(found >= low && found <= high)) reject(name, expected, value);
  return static_cast<float>(found);
}

bool truth(const std::string& name, const Json& value) {
  if (!value.is_boolean()) reject(name, "true or false", value);
  return value.get<bool>();
}

std::string text(const std::string& name, const Json& value) {
  if (!value.is_string()) reject(name, "a string", value);
  return value.get<std::string>();
}

std::vector<int32_t> token_ids(const std::string& name, const Json& value) {
  if (!value.is_array()) reject(name, "a list of token ids", value);
  std::vector<int32_t> ids;
  ids.reserve(value.size());
  for (const Json& id : value) ids.push_back(static_cast<int32_t>(whole_number(name, id, 0, INT32_MAX)));
  return ids;
}

std::vector<std::string> words(const std::string& name, const Json& value) {
  const char* expected = "a list of strings, none empty";
  if (!value.is_array()) reject(name, expected, value);
  std::vector<std::string> list;
  for (const Json& word : value) {
    if (!word.is_string() || word.get_ref<const std::string&>().empty()) reject(name, expected, value);
    list.push_back(word.get<std::string>());
  }
  return list;
}

}  // namespace penstock::field
