// Values as text: str(), repr() and json.dumps().
#pragma once

#include <optional>
#include <string>

#include "runtime/requests/text/template/interpreter.h"

namespace penstock::jinja {

/// Python's repr of a float: the shortest digits that read back the same.
std::string float_text(double value);

/// repr(value), as it stands inside a printed list.
std::string repr(Interpreter& run, const Value& value);

struct JsonStyle {
  bool ensure_ascii = false;
  std::optional<std::string> indent;  // per level; absent: one line
  std::string item_separator = ", ";
  std::string key_separator = ": ";
  bool sort_keys = false;
};

/// json.dumps(value, ...); fails for what JSON does not have.
std::string to_json(Interpreter& run, const Value& value, const JsonStyle& style);

}  // namespace penstock::jinja
