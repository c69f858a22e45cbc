// The fields of config.json, asked for by name and range. Used by the readers of model configurations.
#pragma once

#include <cstdint>
#include <limits>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>

#include "runtime/base/error.h"

namespace penstock {

/// An object of a JSON file, whose fields are asked for by name and range. A null counts as absent.
class Fields {
 public:
  using Json = nlohmann::json;

  Fields(const Json& object, std::string where) : object_(object), where_(std::move(where)) {
    if (!object.is_object())
      throw UsageError(where_ + ": expected a JSON object, found " + object.type_name());
  }

  bool has(const char* name) const { return find(name) != nullptr; }
  const Json* find(const char* name) const {
    const auto it = object_.find(name);
    return it == object_.end() || it->is_null() ? nullptr : &*it;
  }
  const Json& json() const { return object_; }
  const std::string& where() const { return where_; }

  [[noreturn]] void wrong(const char* name, const std::string& expected) const {
    const Json* value = find(name);
    throw UsageError(where_ + ": " + name + ": expected " + expected + ", found " +
                     (value == nullptr ? "nothing" : value->dump().substr(0, 80)));
  }

  int64_t integer(const char* name, int64_t low, int64_t high, std::optional<int64_t> otherwise = {}) const {
    const Json* value = find(name);
    if (value == nullptr && otherwise) return *otherwise;
    // A count written as 4.0 is not accepted; a count above int64 fails get<> and is caught by the type
    // check.
    if (value == nullptr || !value->is_number_integer() || !fits(*value) || value->get<int64_t>() < low ||
        value->get<int64_t>() > high)
      wrong(name, "an integer from " + std::to_string(low) + " to " + std::to_string(high));
    return value->get<int64_t>();
  }

  /// A finite number in (above, up_to].
  double number(const char* name, double above, double up_to, std::optional<double> otherwise = {}) const {
    const Json* value = find(name);
    if (value == nullptr && otherwise) return *otherwise;
    if (value == nullptr || !value->is_number() || !(value->get<double>() > above) ||
        !(value->get<double>() <= up_to))
      wrong(name, "a number above " + Json(above).dump() + ", at most " + Json(up_to).dump());
    return value->get<double>();
  }
  std::optional<double> optional_number(const char* name, double above, double up_to) const {
    if (!has(name)) return std::nullopt;
    return number(name, above, up_to);
  }

  bool flag(const char* name, bool otherwise) const {
    const Json* value = find(name);
    if (value == nullptr) return otherwise;
    if (!value->is_boolean()) wrong(name, "true or false");
    return value->get<bool>();
  }

  std::string text(const char* name, const std::string& otherwise) const {
    const Json* value = find(name);
    if (value == nullptr) return otherwise;
    if (!value->is_string()) wrong(name, "a string");
    return value->get<std::string>();
  }

 private:
  static bool fits(const Json& value) {
    return !value.is_number_unsigned() ||
           value.get<uint64_t>() <= static_cast<uint64_t>(std::numeric_limits<int64_t>::max());
  }

  const Json& object_;
  std::string where_;
};

// Far above every published model, far below what overflows an int64_t when multiplied.
inline constexpr int64_t kMostLayers = 4096;
inline constexpr int64_t kWidest = 1 << 20;
inline constexpr int64_t kMostTokens = 1 << 24;
inline constexpr double kLargestNumber = 1e12;

}  // namespace penstock
