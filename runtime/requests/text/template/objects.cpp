#include "runtime/requests/text/template/objects.h"

#include <algorithm>

#include "runtime/requests/text/template/python_text.h"

namespace penstock::jinja {

Value Namespace::attribute(Interpreter& run, const std::string& name) {
  run.work(names_.size());
  for (const auto& [known, value] : names_) {
    if (known == name) return value;
  }
  return Object::attribute(run, name);
}

void Namespace::set(Interpreter& run, const std::string& name, Value value) {
  if (name.starts_with("_")) {
    run.fail("Chat templates cannot store underscore-prefixed attributes on a namespace, but got " +
             python::repr(name) + ". Please rename the attribute.");
  }
  run.work(names_.size());
  for (auto& [known, old] : names_) {
    if (known == name) {
      old = std::move(value);
      return;
    }
  }
  run.charge(name.size() + sizeof(Value) + 32);
  names_.emplace_back(name, std::move(value));
}

Value Macro::attribute(Interpreter& run, const std::string& name) {
  if (name == "name") return run.text(name_);
  return Object::attribute(run, name);
}

Value Macro::call(Interpreter& run, const Arguments& arguments) {
  return run.call_macro(name_, parameters_, body_, defined_in_, arguments);
}

Value LoopVariable::attribute(Interpreter& run, const std::string& name) {
  const auto at = static_cast<int64_t>(at_);
  const auto size = static_cast<int64_t>(items_.size());
  if (name == "index") return at + 1;
  if (name == "index0") return at;
  if (name == "first") return at == 0;
  if (name == "last") return at + 1 == size;
  if (name == "length") return size;
  if (name == "revindex") return size - at;
  if (name == "revindex0") return size - at - 1;
  if (name == "depth") return depth0_ + 1;
  if (name == "depth0") return depth0_;
  if (name == "previtem") return at > 0 ? items_[at_ - 1] : Value::undefined("there is no previous item");
  if (name == "nextitem") return at + 1 < size ? items_[at_ + 1] : Value::undefined("there is no next item");
  // The interpreter keeps every loop variable until the rendering ends, so that `this` outlives the
  // functions.
  if (name == "cycle") {
    return run.keep(std::make_shared<Function>([this](Interpreter& r, const Arguments& a) {
      if (a.positional.empty()) r.fail("no items for cycling given.");
      return a.positional[at_ % a.positional.size()];
    }));
  }
  if (name == "changed") {
    return run.keep(std::make_shared<Function>(
        [this](Interpreter& r, const Arguments& a) { return Value(changed(r, a.positional)); }));
  }
  return Object::attribute(run, name);
}

bool LoopVariable::changed(Interpreter& run, const std::vector<Value>& values) {
  const bool same =
      ever_changed_ && std::equal(values.begin(), values.end(), last_changed_.begin(), last_changed_.end(),
                                  [&](const Value& a, const Value& b) { return run.equal(a, b); });
  ever_changed_ = true;
  last_changed_ = values;
  return !same;
}

Value LoopVariable::call(Interpreter& run, const Arguments& arguments) {
  if (recursive_ == nullptr) run.fail("The loop must have the 'recursive' marker to be called recursively.");
  if (arguments.positional.size() != 1 || !arguments.named.empty()) run.fail("loop() takes one argument.");
  return run.call_loop(*recursive_, defined_in_, arguments.positional[0], depth0_ + 1);
}

}  // namespace penstock::jinja
