// The things with behaviour that templates meet: namespaces, macros, the loop variable, methods, functions.
// Each belongs to one rendering.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "runtime/requests/text/template/interpreter.h"

namespace penstock::jinja {

/// namespace(): the one thing that a template can change.
class Namespace : public Object {
 public:
  std::string_view type_name() const override { return "namespace"; }
  Value attribute(Interpreter& run, const std::string& name) override;
  void set(Interpreter& run, const std::string& name, Value value);
  void clear() { names_.clear(); }

 private:
  std::vector<std::pair<std::string, Value>> names_;
};

class Macro : public Object {
 public:
  Macro(std::string name, const Parameters& parameters, const Body& body, Scope& defined_in)
      : name_(std::move(name)), parameters_(parameters), body_(body), defined_in_(defined_in) {}
  std::string_view type_name() const override { return "Macro"; }
  Value attribute(Interpreter& run, const std::string& name) override;
  bool callable() const override { return true; }
  Value call(Interpreter& run, const Arguments& arguments) override;

 private:
  std::string name_;
  const Parameters& parameters_;
  const Body& body_;
  Scope& defined_in_;
};

/// `loop` inside a for block.
class LoopVariable : public Object {
 public:
  /// `recursive`: the for block itself, where it may be called again; else null.
  LoopVariable(std::vector<Value> items, int64_t depth, const Statement* recursive, Scope& defined_in)
      : items_(std::move(items)), depth0_(depth), recursive_(recursive), defined_in_(defined_in) {}
  std::string_view type_name() const override { return "LoopContext"; }
  Value attribute(Interpreter& run, const std::string& name) override;
  bool callable() const override { return recursive_ != nullptr; }
  Value call(Interpreter& run, const Arguments& arguments) override;

  bool at_end() const { return at_ == items_.size(); }
  const Value& current() const { return items_[at_]; }
  void advance() { ++at_; }
  bool changed(Interpreter& run, const std::vector<Value>& values);

 private:
  std::vector<Value> items_;
  size_t at_ = 0;
  int64_t depth0_;
  const Statement* recursive_;
  Scope& defined_in_;
  std::vector<Value> last_changed_;
  bool ever_changed_ = false;
};

/// A built-in function, or a method together with its subject.
class Function : public Object {
 public:
  using Code = std::function<Value(Interpreter&, const Arguments&)>;
  explicit Function(Code code, size_t depth = 1) : code_(std::move(code)), depth_(depth) {}
  std::string_view type_name() const override { return "function"; }
  bool callable() const override { return true; }
  Value call(Interpreter& run, const Arguments& arguments) override { return code_(run, arguments); }
  size_t depth() const override { return depth_; }

 private:
  Code code_;
  size_t depth_;
};

}  // namespace penstock::jinja
