// Statements, scopes and bounds. Expressions are in evaluate.cpp, operators in operators.cpp.
#include "runtime/requests/text/template/interpreter.h"

#include <algorithm>
#include <optional>

#include "runtime/base/error.h"
#include "runtime/requests/text/template/format.h"
#include "runtime/requests/text/template/guards.h"
#include "runtime/requests/text/template/lexer.h"
#include "runtime/requests/text/template/objects.h"

namespace penstock::jinja {
namespace {

constexpr size_t kMaxWork = size_t{1} << 30;
constexpr size_t kMaxMemory = size_t{256} << 20;
constexpr size_t kMaxOutput = size_t{64} << 20;
constexpr size_t kStepWork = 200;  // what evaluating one node costs next to touching one byte
constexpr size_t kScopeBytes = 256;

}  // namespace

Interpreter::Interpreter(const Dict& variables) {
  for (const auto& [name, value] : variables.items()) globals_.names.emplace_back(name.text(), value);
}

Interpreter::~Interpreter() {
  // From the oldest on: an object that others hold is emptied before them, so that nothing is destroyed in a
  // chain.
  for (const auto& object : kept_) {
    if (auto* space = dynamic_cast<Namespace*>(object.get())) space->clear();
  }
}

std::string Interpreter::render(const Body& body) {
  Scope top(&globals_);
  scope_ = &top;
  try {
    execute(body);
  } catch (...) {
    scope_ = &globals_;
    throw;
  }
  scope_ = &globals_;
  return std::move(out_text_);
}

void Interpreter::fail(const std::string& what) const {
  fail_at(line_, what);
}

void Interpreter::require_defined(const Value& value) const {
  if (!value.is_undefined()) return;
  const auto& what = value.as_undefined().what;
  fail((what ? *what : "the value is undefined") + ".");
}

void Interpreter::work(size_t units) {
  work_ += units;
  if (work_ > kMaxWork) fail("the template does too much work.");
}

void Interpreter::charge(size_t bytes) {
  if (bytes > kMaxMemory - memory_) fail("the template makes too much data (more than 256 MiB in all).");
  memory_ += bytes;
  work(bytes);
}

size_t Interpreter::memory_left() const {
  return kMaxMemory - memory_;
}

Value Interpreter::text(std::string s) {
  charge(s.size() + 64);
  return {std::move(s)};
}

Value Interpreter::list(std::vector<Value> items, Sequence::Kind kind) {
  charge(items.size() * sizeof(Value) + 64);
  try {
    return Value::list(std::move(items), kind);
  } catch (const Error& error) {
    fail(error.what());
  }
}

Value Interpreter::dict(Dict dict) {
  charge(dict.items().size() * 2 * sizeof(Dict::Item) + 128);
  try {
    return Value::dict(std::move(dict));
  } catch (const Error& error) {
    fail(error.what());
  }
}

Value Interpreter::keep(std::shared_ptr<Object> object) {
  charge(kScopeBytes);
  kept_.push_back(object);
  return {std::move(object)};
}

void Interpreter::write(std::string_view text) {
  if (out_->size() + text.size() > kMaxOutput) fail("the rendered text is longer than 64 MiB.");
  work(text.size());
  if (out_ != &out_text_) charge(text.size());
  *out_ += text;
}

std::string Interpreter::captured_output(const Body& body) {
  std::string text;
  const Restore<std::string*> restore(out_, &text);
  const InScope inside(*this, scope_);
  execute(body);
  return text;
}

const Value* Interpreter::lookup(const std::string& name) {
  for (const Scope* scope = scope_; scope != nullptr; scope = scope->parent) {
    work(scope->names.size());
    for (const auto& [known, value] : scope->names) {
      if (known == name) return &value;
    }
  }
  return nullptr;
}

void Interpreter::set(const std::string& name, Value value) {
  for (auto& [known, old] : scope_->names) {
    if (known == name) {
      old = std::move(value);
      return;
    }
  }
  charge(name.size() + sizeof(Value) + 32);
  scope_->names.emplace_back(name, std::move(value));
}

void Interpreter::assign(const Expression& target, const Value& value) {
  switch (target.kind) {
    case Expression::Kind::name:
      return set(target.name, value);
    case Expression::Kind::member: {
      const Value* space = lookup(target.parts[0]->name);
      auto* object = space == nullptr ? nullptr : dynamic_cast<Namespace*>(space->object());
      line_ = target.line;
      if (object == nullptr) fail("cannot assign attribute on non-namespace object.");
      return object->set(*this, target.name, value);
    }
    default: {
      const std::vector<Value> items = iterate(value);
      line_ = target.line;
      if (items.size() != target.parts.size()) {
        fail("cannot unpack " + std::to_string(items.size()) + " values into " +
             std::to_string(target.parts.size()) + " names.");
      }
      for (size_t i = 0; i < items.size(); ++i) assign(*target.parts[i], items[i]);
    }
  }
}

// Marks a scope and those around it as needed until the end.
void Interpreter::capture(Scope* scope) {
  for (; scope != nullptr && !scope->captured; scope = scope->parent) {
    scope->captured = true;
    charge(kScopeBytes);
  }
}

Interpreter::Flow Interpreter::execute(const Body& body) {
  const Deeper deeper(*this);
  for (const Statement& statement : body) {
    const Flow flow = execute(statement);
    if (flow != Flow::normal) return flow;
  }
  return Flow::normal;
}

Interpreter::Flow Interpreter::execute(const Statement& s) {
  line_ = s.line;
  work(kStepWork);
  switch (s.kind) {
    case Statement::Kind::text:
      write(s.text);
      break;
    case Statement::Kind::output: {
      const Value value = evaluate(*s.expression);
      if (value.is_text()) {
        write(value.text());
      } else {
        write(to_text(value));
      }
      break;
    }
    case Statement::Kind::if_else:
      for (const auto& [condition, body] : s.branches) {
        if (evaluate(*condition).truth()) return execute(body);
      }
      return execute(s.else_body);
    case Statement::Kind::for_loop:
      return loop(s, evaluate(*s.expression), 0, *scope_);
    case Statement::Kind::set:
      assign(*s.target, evaluate(*s.expression));
      break;
    case Statement::Kind::set_block: {
      Value value = text(captured_output(s.body));
      if (s.expression) value = filter_chain(*s.expression, value);
      assign(*s.target, value);
      break;
    }
    case Statement::Kind::with: {
      std::vector<Value> values;
      for (const auto& [target, expression] : s.bindings) values.push_back(evaluate(*expression));
      const InScope inside(*this, scope_);
      for (size_t i = 0; i < values.size(); ++i) assign(*s.bindings[i].first, values[i]);
      return execute(s.body);
    }
    case Statement::Kind::macro: {
      capture(scope_);
      set(s.text, keep(std::make_shared<Macro>(s.text, s.parameters, s.body, *scope_)));
      break;
    }
    case Statement::Kind::call_block: {
      capture(scope_);
      const Value caller = keep(std::make_shared<Macro>("caller", s.parameters, s.body, *scope_));
      const Value callee = evaluate(*s.expression->parts[0]);
      Arguments arguments = evaluate(s.expression->arguments);
      line_ = s.line;
      arguments.named.emplace_back("caller", caller);
      write(to_text(call(callee, arguments)));
      break;
    }
    case Statement::Kind::filter_block:
      write(to_text(filter_chain(*s.expression, text(captured_output(s.body)))));
      break;
    case Statement::Kind::scoped: {
      const InScope inside(*this, scope_);
      execute(s.body);
      break;
    }
    case Statement::Kind::break_loop:
      return Flow::break_loop;
    case Statement::Kind::continue_loop:
      return Flow::continue_loop;
  }
  return Flow::normal;
}

Interpreter::Flow Interpreter::loop(const Statement& s, const Value& over, int64_t depth, Scope& defined_in) {
  if (s.recursive) capture(&defined_in);
  std::vector<Value> items = iterate(over);
  const int begun = s.line;
  if (s.condition) {
    std::vector<Value> kept;
    for (Value& item : items) {
      const InScope inside(*this, &defined_in);
      assign(*s.target, item);
      if (evaluate(*s.condition).truth()) kept.push_back(std::move(item));
    }
    items = std::move(kept);
  }
  if (items.empty()) {
    const InScope inside(*this, &defined_in);
    return execute(s.else_body);
  }
  charge(items.size() * sizeof(Value) + kScopeBytes);
  const auto state =
      std::make_shared<LoopVariable>(std::move(items), depth, s.recursive ? &s : nullptr, defined_in);
  const Value variable = keep(state);
  // To Jinja the loop was empty if no round came to the end of its body, be it by break or continue.
  bool any_ended = false;
  for (; !state->at_end(); state->advance()) {
    line_ = begun;
    work(kStepWork);
    const InScope inside(*this, &defined_in);
    set("loop", variable);
    assign(*s.target, state->current());
    const Flow flow = execute(s.body);
    any_ended |= flow == Flow::normal;
    if (flow == Flow::break_loop) break;
  }
  if (any_ended) return Flow::normal;
  const InScope inside(*this, &defined_in);
  return execute(s.else_body);
}

Value Interpreter::call_loop(const Statement& statement, Scope& defined_in, const Value& items,
                             int64_t depth) {
  std::string out;
  const Restore<std::string*> restore(out_, &out);
  const Deeper deeper(*this);
  loop(statement, items, depth, defined_in);
  return text(std::move(out));
}

Value Interpreter::call_macro(const std::string& name, const Parameters& parameters, const Body& body,
                              Scope& defined_in, const Arguments& arguments) {
  std::string out;
  const int line = line_;
  {
    const Restore<std::string*> restore(out_, &out);
    const Deeper deeper(*this);
    const InScope inside(*this, &defined_in);
    bind(name, parameters, arguments);
    execute(body);
  }
  line_ = line;
  return text(std::move(out));
}

void Interpreter::bind(const std::string& name, const Parameters& parameters, const Arguments& arguments) {
  const size_t n = parameters.names.size();
  const size_t direct = std::min(n, arguments.positional.size());
  const int line = line_;
  std::vector<bool> given(n, false);
  for (size_t i = 0; i < direct; ++i) {
    set(parameters.names[i], arguments.positional[i]);
    given[i] = true;
  }
  Dict more_named;
  Value caller = Value::undefined("No caller defined");
  for (const auto& [key, value] : arguments.named) {
    const auto at = static_cast<size_t>(std::find(parameters.names.begin(), parameters.names.end(), key) -
                                        parameters.names.begin());
    if (at < n) {
      if (given[at]) fail("macro '" + name + "' got multiple values for argument '" + key + "'.");
      set(key, value);
      given[at] = true;
    } else if (key == "caller" && parameters.takes_caller) {
      caller = value;
    } else {
      more_named.set(key, value);
    }
  }
  if (direct < arguments.positional.size() && !parameters.takes_varargs) {
    fail("macro '" + name + "' takes not more than " + std::to_string(n) + " argument(s).");
  }
  if (!more_named.items().empty() && !parameters.takes_kwargs) {
    fail("macro '" + name + "' takes no keyword argument '" + more_named.items()[0].first.text() + "'.");
  }
  const size_t first_default = n - parameters.defaults.size();
  for (size_t i = 0; i < n; ++i) {
    if (given[i]) continue;
    set(parameters.names[i],
        i >= first_default ? evaluate(*parameters.defaults[i - first_default])
                           : Value::undefined("parameter '" + parameters.names[i] + "' was not provided"));
  }
  line_ = line;
  if (parameters.takes_varargs) {
    set("varargs",
        list({arguments.positional.begin() + static_cast<ptrdiff_t>(direct), arguments.positional.end()},
             Sequence::Kind::tuple));
  }
  if (parameters.takes_kwargs) set("kwargs", dict(std::move(more_named)));
  if (parameters.takes_caller) set("caller", std::move(caller));
}

}  // namespace penstock::jinja
