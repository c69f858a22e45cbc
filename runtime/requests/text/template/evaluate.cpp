// Expressions to values.
#include <algorithm>

#include "runtime/requests/text/template/format.h"
#include "runtime/requests/text/template/guards.h"
#include "runtime/requests/text/template/interpreter.h"
#include "runtime/requests/text/template/library.h"
#include "runtime/requests/text/template/objects.h"
#include "runtime/requests/text/template/python_text.h"
#include "runtime/requests/text/utf8.h"

namespace penstock::jinja {
namespace {

using Kind = Expression::Kind;

constexpr size_t kStepWork = 200;

/// How Jinja names the owner in "... has no attribute".
std::string owner_name(const Value& value) {
  return value.is_none() ? "None" : "'" + std::string(value.type_name()) + " object'";
}

bool has_items_and_methods(const Value& v) {
  return v.is_text() || v.sequence() != nullptr || v.dict() != nullptr;
}

/// Python's slice.indices: clamps to a sequence of `size`.
struct Range {
  int64_t start, stop, step;
};
Range slice_range(const Interpreter& run, int64_t size, const Value& start, const Value& stop,
                  const Value& step) {
  const auto number = [&](const Value& v, int64_t otherwise) {
    if (v.is_none()) return otherwise;
    if (!v.is_integer()) run.fail("slice indices must be integers or None.");
    return v.integer();
  };
  Range r{0, 0, number(step, 1)};
  if (r.step == 0) run.fail("slice step cannot be zero.");
  const auto clamp = [&](int64_t i) {
    if (i < 0) i = i < -size ? -1 : i + size;
    if (r.step > 0) return std::clamp<int64_t>(i, 0, size);
    return std::clamp<int64_t>(i, -1, size - 1);
  };
  r.start = start.is_none() ? (r.step > 0 ? 0 : size - 1) : clamp(number(start, 0));
  r.stop = stop.is_none() ? (r.step > 0 ? size : -1) : clamp(number(stop, 0));
  return r;
}

template <typename F>
void each_index(const Range& r, F&& f) {
  // A step beyond the range ends it after one index; comparing the distance keeps the sum from overflowing.
  for (int64_t i = r.start; r.step > 0 ? i < r.stop : i > r.stop;) {
    f(static_cast<size_t>(i));
    if (r.step > 0 ? r.step >= r.stop - i : r.step <= r.stop - i) return;
    i += r.step;
  }
}

}  // namespace

Value Interpreter::evaluate(const Expression& e) {
  const Deeper deeper(*this);
  work(kStepWork);
  line_ = e.line;
  switch (e.kind) {
    case Kind::constant:
      return e.value;
    case Kind::name:
      return evaluate_name(e);
    case Kind::member: {
      const Value subject = evaluate(*e.parts[0]);
      line_ = e.line;
      return member(subject, e.name);
    }
    case Kind::item: {
      const Value subject = evaluate(*e.parts[0]);
      const Value key = evaluate(*e.parts[1]);
      line_ = e.line;
      return item(subject, key);
    }
    case Kind::slice:
      return evaluate_slice(e);
    case Kind::list:
    case Kind::tuple: {
      std::vector<Value> items;
      items.reserve(e.parts.size());
      for (const ExpressionPtr& part : e.parts) items.push_back(evaluate(*part));
      return list(std::move(items), e.kind == Kind::list ? Sequence::Kind::list : Sequence::Kind::tuple);
    }
    case Kind::dict:
      return evaluate_dict(e);
    case Kind::call:
      return evaluate_call(e);
    case Kind::filter:
      return filter_chain(e, Value::undefined());
    case Kind::test: {
      const Value subject = evaluate(*e.parts[0]);
      const Arguments arguments = evaluate(e.arguments);
      line_ = e.line;
      return apply_test(e.name, subject, arguments);
    }
    case Kind::negate:
      return negate(evaluate(*e.parts[0]));
    case Kind::plus: {
      Value value = evaluate(*e.parts[0]);
      require_defined(value);
      if (!value.is_number()) fail("bad operand type for unary +: '" + std::string(value.type_name()) + "'.");
      return value.is_bool() ? Value(value.integer()) : value;
    }
    case Kind::logical_not:
      return !evaluate(*e.parts[0]).truth();
    case Kind::logical_and: {
      Value left = evaluate(*e.parts[0]);
      return left.truth() ? evaluate(*e.parts[1]) : left;
    }
    case Kind::logical_or: {
      Value left = evaluate(*e.parts[0]);
      return left.truth() ? left : evaluate(*e.parts[1]);
    }
    case Kind::condition:
      if (evaluate(*e.parts[0]).truth()) return evaluate(*e.parts[1]);
      if (!e.parts[2])
        return Value::undefined(
            "the inline if-expression evaluated to false and no else section was defined");
      return evaluate(*e.parts[2]);
    case Kind::concat: {
      std::string out;
      for (const ExpressionPtr& part : e.parts) {
        out += to_text(evaluate(*part));
        if (out.size() > memory_left()) fail("the template makes too much data.");
      }
      return text(std::move(out));
    }
    case Kind::binary: {
      const Value left = evaluate(*e.parts[0]);
      const Value right = evaluate(*e.parts[1]);
      line_ = e.line;
      return binary(e.operators[0], left, right);
    }
    case Kind::compare:
      return evaluate_compare(e);
  }
  return {};
}

Value Interpreter::evaluate_name(const Expression& e) {
  if (const Value* found = lookup(e.name)) return *found;
  if (std::optional<Value> function = global_function(*this, e.name)) return *function;
  return Value::undefined("'" + e.name + "' is undefined");
}

Value Interpreter::evaluate_dict(const Expression& e) {
  Dict made;
  for (size_t i = 0; i < e.parts.size(); i += 2) {
    Value key = evaluate(*e.parts[i]);
    Value value = evaluate(*e.parts[i + 1]);
    line_ = e.line;
    if (key.dict() != nullptr ||
        (key.sequence() != nullptr && key.sequence()->kind == Sequence::Kind::list)) {
      fail("unhashable type: '" + std::string(key.type_name()) + "'.");
    }
    made.set(std::move(key), std::move(value));
  }
  return dict(std::move(made));
}

Value Interpreter::evaluate_slice(const Expression& e) {
  const Value subject = evaluate(*e.parts[0]);
  Value bounds[3];
  for (size_t i = 0; i < 3; ++i) {
    if (e.parts[i + 1]) bounds[i] = evaluate(*e.parts[i + 1]);
  }
  line_ = e.line;
  if (subject.is_text()) {
    const std::string& s = subject.text();
    work(s.size());
    const auto size = static_cast<int64_t>(python::length(s));
    const Range r = slice_range(*this, size, bounds[0], bounds[1], bounds[2]);
    std::string out;
    if (r.step == 1) {
      const size_t first = python::offset(s, static_cast<size_t>(r.start));
      out = r.stop > r.start ? s.substr(first, python::offset(std::string_view(s).substr(first),
                                                              static_cast<size_t>(r.stop - r.start)))
                             : "";
    } else {
      charge(s.size() * 4);
      const std::u32string points = utf8::decode(s);
      each_index(r, [&](size_t i) { utf8::append(out, points[i]); });
    }
    return text(std::move(out));
  }
  const Sequence* sequence = subject.sequence();
  if (sequence == nullptr || sequence->kind == Sequence::Kind::generator ||
      sequence->kind == Sequence::Kind::view) {
    require_defined(subject);
    fail("'" + std::string(subject.type_name()) + "' object is not subscriptable.");
  }
  const Range r =
      slice_range(*this, static_cast<int64_t>(sequence->items.size()), bounds[0], bounds[1], bounds[2]);
  std::vector<Value> items;
  each_index(r, [&](size_t i) { items.push_back(sequence->items[i]); });
  return list(std::move(items), sequence->kind);
}

Value Interpreter::evaluate_call(const Expression& e) {
  const Expression& callee = *e.parts[0];
  if (callee.kind == Kind::member) {
    const Value subject = evaluate(*callee.parts[0]);
    if (has_method(subject, callee.name)) {
      const Arguments arguments = evaluate(e.arguments);
      line_ = e.line;
      return call_method(*this, subject, callee.name, arguments);
    }
    line_ = callee.line;
    const Value function = member(subject, callee.name);
    const Arguments arguments = evaluate(e.arguments);
    line_ = e.line;
    return call(function, arguments);
  }
  const Value function = evaluate(callee);
  const Arguments arguments = evaluate(e.arguments);
  line_ = e.line;
  return call(function, arguments);
}

Arguments Interpreter::evaluate(const CallArguments& in) {
  Arguments out;
  for (const ExpressionPtr& part : in.positional) out.positional.push_back(evaluate(*part));
  if (in.more_positional) {
    const std::vector<Value> more = iterate(evaluate(*in.more_positional));
    out.positional.insert(out.positional.end(), more.begin(), more.end());
  }
  for (const auto& [name, part] : in.named) out.named.emplace_back(name, evaluate(*part));
  if (in.more_named) {
    const Value more = evaluate(*in.more_named);
    if (more.dict() == nullptr) fail("the argument behind ** must be a mapping.");
    for (const auto& [key, value] : more.dict()->items()) {
      if (!key.is_text()) fail("keywords must be strings.");
      out.named.emplace_back(key.text(), value);
    }
  }
  return out;
}

// The filters of a chain from the inside out; the innermost subject of a filter block or a set block is
// `subject`.
Value Interpreter::filter_chain(const Expression& e, const Value& subject) {
  const Deeper deeper(*this);
  Value value = subject;
  if (e.parts[0])
    value = e.parts[0]->kind == Kind::filter ? filter_chain(*e.parts[0], subject) : evaluate(*e.parts[0]);
  const Arguments arguments = evaluate(e.arguments);
  line_ = e.line;
  work(kStepWork);
  return apply_filter(e.name, value, arguments);
}

Value Interpreter::evaluate_compare(const Expression& e) {
  Value left = evaluate(*e.parts[0]);
  for (size_t i = 0; i < e.operators.size(); ++i) {
    Value right = evaluate(*e.parts[i + 1]);
    line_ = e.line;
    if (!compare(e.operators[i], left, right)) return false;
    left = std::move(right);
  }
  return true;
}

Value Interpreter::apply_filter(const std::string& name, const Value& subject, const Arguments& arguments) {
  for (const auto table : {text_filter, number_filter, sequence_filter, selection_filter}) {
    if (std::optional<Value> result = table(*this, name, subject, arguments)) return *std::move(result);
  }
  fail("No filter named '" + name + "'.");
}

Value Interpreter::call(const Value& callee, const Arguments& arguments) {
  Object* object = callee.object();
  if (object != nullptr && object->callable()) return object->call(*this, arguments);
  require_defined(callee);
  if (object != nullptr && dynamic_cast<LoopVariable*>(object) != nullptr)
    return object->call(*this, arguments);
  fail("'" + std::string(callee.type_name()) + "' object is not callable.");
}

Value Interpreter::member(const Value& subject, const std::string& name) {
  require_defined(subject);
  if (Object* object = subject.object()) return object->attribute(*this, name);
  if (has_method(subject, name)) {
    const auto code = [subject, name](Interpreter& run, const Arguments& arguments) {
      return call_method(run, subject, name, arguments);
    };
    return keep(std::make_shared<Function>(code, subject.depth() + 1));
  }
  if (is_mutating_method(subject, name)) {
    return Value::undefined("access to attribute '" + name + "' of '" + std::string(subject.type_name()) +
                            "' object is unsafe");
  }
  if (const Dict* d = subject.dict()) {
    if (const Value* found = d->find_text(name)) return *found;
  }
  return Value::undefined(owner_name(subject) + " has no attribute '" + name + "'");
}

Value Interpreter::item(const Value& subject, const Value& key) {
  require_defined(subject);
  if (const Dict* d = subject.dict()) {
    if (!key.is_text()) work(d->items().size());
    if (const Value* found = d->find(key)) return *found;
  } else if (key.is_integer() && subject.is_text()) {
    const std::string& s = subject.text();
    work(s.size());
    const auto size = static_cast<int64_t>(python::length(s));
    const int64_t i = key.integer() < 0 ? key.integer() + size : key.integer();
    if (i >= 0 && i < size) {
      const size_t at = python::offset(s, static_cast<size_t>(i));
      return text(s.substr(at, utf8::length(s[at])));
    }
  } else if (const Sequence* q = subject.sequence(); q != nullptr && key.is_integer() &&
                                                     q->kind != Sequence::Kind::generator &&
                                                     q->kind != Sequence::Kind::view) {
    const auto size = static_cast<int64_t>(q->items.size());
    const int64_t i = key.integer() < 0 ? key.integer() + size : key.integer();
    if (i >= 0 && i < size) return q->items[static_cast<size_t>(i)];
  }
  if (key.is_text()) {
    if (subject.object() != nullptr || (has_items_and_methods(subject) && has_method(subject, key.text())))
      return member(subject, key.text());
  }
  return Value::undefined(owner_name(subject) + " has no attribute " + repr(*this, key));
}

std::vector<Value> Interpreter::iterate(const Value& value) {
  if (const Sequence* s = value.sequence()) {
    work(s->items.size() * 4);
    if (s->kind == Sequence::Kind::generator) {
      if (s->consumed) return {};
      s->consumed = true;
    }
    return s->items;
  }
  std::vector<Value> out;
  if (value.is_text()) {
    const std::string& s = value.text();
    for (size_t at = 0; at < s.size(); at += utf8::length(s[at]))
      out.push_back(text(s.substr(at, utf8::length(s[at]))));
  } else if (const Dict* d = value.dict()) {
    work(d->items().size() * 4);
    for (const auto& [key, unused] : d->items()) out.push_back(key);
  } else if (!value.is_undefined()) {
    fail("'" + std::string(value.type_name()) + "' object is not iterable.");
  }
  return out;
}

std::string Interpreter::to_text(const Value& value) {
  if (value.is_undefined()) return {};
  if (value.is_none()) return "None";
  if (value.is_text()) {
    work(value.text().size());
    return value.text();
  }
  if (value.is_bool()) return value.boolean() ? "True" : "False";
  if (value.is_integer()) return std::to_string(value.integer());
  if (value.is_float()) return float_text(value.number());
  return repr(*this, value);
}

}  // namespace penstock::jinja
