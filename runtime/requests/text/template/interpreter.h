// Renders a parsed template. One Interpreter renders once, on one thread. Work, memory, depth and output are
// bounded: a hostile template ends in an Error after about a second and 256 MiB at the most.
#pragma once

#include <deque>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "runtime/requests/text/template/ast.h"
#include "runtime/requests/text/template/value.h"

namespace penstock::jinja {

/// Evaluated arguments of a call.
struct Arguments {
  std::vector<Value> positional;
  std::vector<std::pair<std::string, Value>> named;
};

/// Names in one block. Looked up from the inside out.
struct Scope {
  explicit Scope(Scope* outer) : parent(outer) {}
  Scope* parent;
  std::vector<std::pair<std::string, Value>> names;
  bool captured = false;  // a macro made here may be called later: lives as long as the rendering
};

class Interpreter {
 public:
  explicit Interpreter(const Dict& variables);
  ~Interpreter();
  Interpreter(const Interpreter&) = delete;
  Interpreter& operator=(const Interpreter&) = delete;

  std::string render(const Body& body);

  // For filters, tests, methods and functions:

  /// Throws the row's Error, with the line that is being evaluated.
  [[noreturn]] void fail(const std::string& what) const;
  /// Fails for an undefined value, saying which.
  void require_defined(const Value& value) const;
  /// Counts work, one unit a byte or so; fails when the rendering has done too much.
  void work(size_t units);
  /// A text as a value; counts its memory.
  Value text(std::string s);
  Value list(std::vector<Value> items, Sequence::Kind kind = Sequence::Kind::list);
  Value dict(Dict dict);
  /// Fails when a text of `bytes` would be more than the rendering may still make.
  size_t memory_left() const;
  void charge(size_t bytes);
  /// Keeps an object until the rendering ends, so that objects that hold each other are not destroyed in a
  /// chain.
  Value keep(std::shared_ptr<Object> object);

  Value member(const Value& subject, const std::string& name);
  Value item(const Value& subject, const Value& key);
  Value call(const Value& callee, const Arguments& arguments);
  Value apply_filter(const std::string& name, const Value& subject, const Arguments& arguments);
  bool apply_test(const std::string& name, const Value& subject, const Arguments& arguments);
  /// What a for loop sees. Fails for what cannot be iterated.
  std::vector<Value> iterate(const Value& value);
  bool equal(const Value& a, const Value& b);
  /// a < b; fails for types that have no order.
  bool less(const Value& a, const Value& b);
  bool contains(const Value& container, const Value& value);
  Value add(const Value& a, const Value& b);
  Value multiply(const Value& a, const Value& b);
  /// str(value).
  std::string to_text(const Value& value);

  /// Calls a macro or a call block: binds the arguments and renders the body.
  Value call_macro(const std::string& name, const Parameters& parameters, const Body& body, Scope& defined_in,
                   const Arguments& arguments);
  /// The recursive call of a loop: renders the loop over other items.
  Value call_loop(const Statement& loop, Scope& defined_in, const Value& items, int64_t depth);

 private:
  enum class Flow { normal, break_loop, continue_loop };
  class Deeper;
  class InScope;

  Flow execute(const Body& body);
  Flow execute(const Statement& statement);
  Flow loop(const Statement& statement, const Value& over, int64_t depth, Scope& defined_in);
  void bind(const std::string& macro, const Parameters& parameters, const Arguments& arguments);
  void assign(const Expression& target, const Value& value);
  void set(const std::string& name, Value value);
  const Value* lookup(const std::string& name);
  std::string captured_output(const Body& body);
  void write(std::string_view text);
  void capture(Scope* scope);

  Value evaluate(const Expression& e);
  Value evaluate_name(const Expression& e);
  Value evaluate_slice(const Expression& e);
  Value evaluate_dict(const Expression& e);
  Value evaluate_call(const Expression& e);
  Value evaluate_compare(const Expression& e);
  Value binary(const std::string& op, const Value& a, const Value& b);
  Value arithmetic(char op, const Value& a, const Value& b);
  Value power(const Value& a, const Value& b);
  Value negate(const Value& a);
  bool compare(const std::string& op, const Value& a, const Value& b);
  Arguments evaluate(const CallArguments& arguments);
  Value filter_chain(const Expression& e, const Value& subject);

  std::string out_text_;
  std::string* out_ = &out_text_;
  Scope globals_{nullptr};
  Scope* scope_ = &globals_;
  std::deque<std::unique_ptr<Scope>> captured_;
  std::vector<std::shared_ptr<Object>> kept_;
  int line_ = 1;
  int depth_ = 0;
  size_t work_ = 0;
  size_t memory_ = 0;
};

}  // namespace penstock::jinja
