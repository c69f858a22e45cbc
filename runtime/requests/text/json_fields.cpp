#include "runtime/requests/text/json_fields.h"

#include "runtime/base/error.h"
#include "runtime/requests/text/utf8.h"

namespace penstock::json_fields {
namespace {

using nlohmann::json;

constexpr size_t kShown = 80;

std::string shown(const json& object) {
  std::string text = object.dump(-1, ' ', false, json::error_handler_t::replace);
  return text.size() <= kShown ? text : text.substr(0, kShown) + "...";
}

[[noreturn]] void wrong(const json& object, const std::string& name, const char* expected) {
  throw UsageError("tokenizer.json: field '" + name + "' of " + shown(object) + " must be " + expected + ".");
}

const json* find(const json& object, const char* name) {
  if (!object.is_object()) wrong(object, name, "part of an object");
  const auto it = object.find(name);
  return it == object.end() || it->is_null() ? nullptr : &*it;
}

}  // namespace

std::string type_of(const json& object, const std::string& place) {
  if (!object.is_object() || !object.contains("type") || !object["type"].is_string()) {
    throw UsageError("tokenizer.json: " + place + " must be an object with a 'type', found " + shown(object) +
                     ".");
  }
  return object["type"].get<std::string>();
}

bool boolean(const json& object, const char* name, bool otherwise) {
  const json* field = find(object, name);
  if (field == nullptr) return otherwise;
  if (!field->is_boolean()) wrong(object, name, "true or false");
  return field->get<bool>();
}

uint64_t count(const json& object, const char* name, uint64_t otherwise) {
  const json* field = find(object, name);
  if (field == nullptr) return otherwise;
  if (!field->is_number_unsigned()) wrong(object, name, "a number that is not negative");
  return field->get<uint64_t>();
}

std::string text(const json& object, const char* name, const std::string& otherwise) {
  const json* field = find(object, name);
  if (field == nullptr) return otherwise;
  if (!field->is_string()) wrong(object, name, "a string");
  return field->get<std::string>();
}

std::string required_text(const json& object, const char* name) {
  if (find(object, name) == nullptr) wrong(object, name, "present, and a string");
  return text(object, name, "");
}

const json& required_array(const json& object, const char* name) {
  const json* field = find(object, name);
  if (field == nullptr || !field->is_array()) wrong(object, name, "present, and an array");
  return *field;
}

Pattern pattern(const json& object) {
  const json* field = find(object, "pattern");
  if (field == nullptr || !field->is_object())
    wrong(object, "pattern", R"({"String": ...} or {"Regex": ...})");
  if (field->contains("String")) return Pattern::literal(required_text(*field, "String"));
  return Pattern::regular_expression(required_text(*field, "Regex"));
}

std::string one_character(const json& object, const char* name, const std::string& otherwise) {
  std::string value = text(object, name, otherwise);
  if (value.empty() || utf8::length(value[0]) != value.size()) wrong(object, name, "one character");
  return value;
}

PrependScheme prepend_scheme(const json& metaspace) {
  const std::string scheme = text(metaspace, "prepend_scheme", "always");
  const bool add = boolean(metaspace, "add_prefix_space", true);  // what files of before 2024 say instead
  if (scheme == "never" || !add) return PrependScheme::never;
  if (scheme == "first") return PrependScheme::first;
  if (scheme != "always") wrong(metaspace, "prepend_scheme", "always, never or first");
  return PrependScheme::always;
}

}  // namespace penstock::json_fields
