// Binds a call's arguments to the names of a function's parameters, with Python's errors.
#pragma once

#include <initializer_list>
#include <optional>
#include <string>
#include <vector>

#include "runtime/requests/text/template/interpreter.h"

namespace penstock::jinja {

class Bound {
 public:
  /// `names` are the parameters in order, of which the first `required` must be given. Fails for a missing,
  /// an unknown and a doubled argument.
  Bound(const Interpreter& run, std::string_view function, const Arguments& arguments,
        std::initializer_list<std::string_view> names, size_t required = 0);

  bool has(size_t i) const { return values_[i] != nullptr; }
  const Value& operator[](size_t i) const { return *values_[i]; }
  const Value& value(size_t i, const Value& otherwise) const { return has(i) ? *values_[i] : otherwise; }

  /// Each fails when the argument is given and of another type.
  int64_t integer(size_t i, int64_t otherwise) const;
  const std::string& text(size_t i) const;  // of one that was required
  std::string text(size_t i, const std::string& otherwise) const { return has(i) ? text(i) : otherwise; }
  bool truth(size_t i, bool otherwise) const { return has(i) ? values_[i]->truth() : otherwise; }
  /// Also absent when it is None.
  const Value* unless_none(size_t i) const { return has(i) && !values_[i]->is_none() ? values_[i] : nullptr; }

 private:
  [[noreturn]] void wrong(size_t i, std::string_view expected) const;
  const Interpreter& run_;
  std::string function_;
  std::vector<const Value*> values_;
};

}  // namespace penstock::jinja
