#include "runtime/requests/text/template/arguments.h"

#include <algorithm>

namespace penstock::jinja {

Bound::Bound(const Interpreter& run, std::string_view function, const Arguments& arguments,
             std::initializer_list<std::string_view> names, size_t required)
    : run_(run), function_(function), values_(names.size(), nullptr) {
  if (arguments.positional.size() > names.size()) {
    run.fail(function_ + "() takes at most " + std::to_string(names.size()) + " arguments, found " +
             std::to_string(arguments.positional.size()) + ".");
  }
  for (size_t i = 0; i < arguments.positional.size(); ++i) values_[i] = &arguments.positional[i];
  for (const auto& [name, value] : arguments.named) {
    const auto at = static_cast<size_t>(std::find(names.begin(), names.end(), name) - names.begin());
    if (at == names.size()) run.fail(function_ + "() got an unexpected keyword argument '" + name + "'.");
    if (values_[at] != nullptr) run.fail(function_ + "() got multiple values for argument '" + name + "'.");
    values_[at] = &value;
  }
  for (size_t i = 0; i < required; ++i) {
    if (values_[i] == nullptr)
      run.fail(function_ + "() needs the argument '" + std::string(names.begin()[i]) + "'.");
  }
}

void Bound::wrong(size_t i, std::string_view expected) const {
  run_.fail("argument " + std::to_string(i + 1) + " of " + function_ + "() must be " + std::string(expected) +
            ", found " + std::string(values_[i]->type_name()) + ".");
}

int64_t Bound::integer(size_t i, int64_t otherwise) const {
  if (!has(i)) return otherwise;
  if (!values_[i]->is_integer()) wrong(i, "an integer");
  return values_[i]->integer();
}

const std::string& Bound::text(size_t i) const {
  if (!values_[i]->is_text()) wrong(i, "a string");
  return values_[i]->text();
}

}  // namespace penstock::jinja
