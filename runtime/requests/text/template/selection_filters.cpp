// Filters that apply another filter or test to each item: map, select, reject, selectattr, rejectattr; and
// attr.
#include "runtime/requests/text/template/arguments.h"
#include "runtime/requests/text/template/library.h"
#include "runtime/requests/text/template/python_text.h"

namespace penstock::jinja {
namespace {

Value map(Interpreter& run, const Value& subject, const Arguments& arguments) {
  std::vector<Value> out;
  if (!subject.truth()) return run.list({}, Sequence::Kind::generator);
  if (arguments.positional.empty() && !arguments.named.empty()) {
    const Bound a(run, "map", arguments, {"attribute", "default"}, 1);
    for (const Value& item : run.iterate(subject))
      out.push_back(attribute_path(run, item, a[0], a.unless_none(1)));
    return run.list(std::move(out), Sequence::Kind::generator);
  }
  if (arguments.positional.empty() || !arguments.positional[0].is_text())
    run.fail("map requires a filter argument.");
  const Arguments rest{{arguments.positional.begin() + 1, arguments.positional.end()}, arguments.named};
  for (const Value& item : run.iterate(subject))
    out.push_back(run.apply_filter(arguments.positional[0].text(), item, rest));
  return run.list(std::move(out), Sequence::Kind::generator);
}

Value select(Interpreter& run, const Value& subject, const Arguments& arguments, bool by_attribute,
             bool wanted) {
  if (!subject.truth()) return run.list({}, Sequence::Kind::generator);
  size_t used = 0;
  if (by_attribute && arguments.positional.empty()) run.fail("Missing parameter for attribute name.");
  const Value attribute = by_attribute ? arguments.positional[used++] : Value();
  std::optional<std::string> test;
  if (used < arguments.positional.size()) {
    if (!arguments.positional[used].is_text()) run.fail("the name of a test must be a string.");
    test = arguments.positional[used++].text();
  }
  const Arguments rest{
      {arguments.positional.begin() + static_cast<ptrdiff_t>(used), arguments.positional.end()},
      arguments.named};
  std::vector<Value> out;
  for (const Value& item : run.iterate(subject)) {
    const Value value = by_attribute ? attribute_path(run, item, attribute, nullptr) : item;
    if ((test ? run.apply_test(*test, value, rest) : value.truth()) == wanted) out.push_back(item);
  }
  return run.list(std::move(out), Sequence::Kind::generator);
}

/// Like a dot, but without falling back to items.
Value attr(Interpreter& run, const Value& subject, const Arguments& arguments) {
  const Bound a(run, "attr", arguments, {"name"}, 1);
  const std::string& name = a.text(0);
  if (subject.object() == nullptr && !has_method(subject, name)) {
    return Value::undefined("'" + std::string(subject.type_name()) + " object' has no attribute '" + name +
                            "'");
  }
  return run.member(subject, name);
}

}  // namespace

Value attribute_path(Interpreter& run, const Value& subject, const Value& path, const Value* otherwise) {
  Value value = subject;
  const auto step = [&](const Value& key) {
    value = run.item(value, key);
    if (otherwise != nullptr && value.is_undefined()) value = *otherwise;
  };
  if (!path.is_text()) {
    step(path);
    return value;
  }
  for (std::string& part : python::split(path.text(), ".", -1)) {
    const bool is_index =
        !part.empty() && part.size() < 10 && part.find_first_not_of("0123456789") == std::string::npos;
    step(is_index ? Value(static_cast<int64_t>(std::stoll(part))) : run.text(std::move(part)));
  }
  return value;
}

std::optional<Value> selection_filter(Interpreter& run, const std::string& name, const Value& subject,
                                      const Arguments& arguments) {
  if (name == "map") return map(run, subject, arguments);
  if (name == "select") return select(run, subject, arguments, false, true);
  if (name == "reject") return select(run, subject, arguments, false, false);
  if (name == "selectattr") return select(run, subject, arguments, true, true);
  if (name == "rejectattr") return select(run, subject, arguments, true, false);
  if (name == "attr") return attr(run, subject, arguments);
  return std::nullopt;
}

}  // namespace penstock::jinja
