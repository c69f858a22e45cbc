// The values of a chat template: Python's, as far as Jinja needs them. Lists and dicts never change once made
// (the sandbox that Hugging Face renders in forbids it), so values are shared freely between threads, except
// Objects.
#pragma once

#include <cstdint>
#include <memory>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <variant>
#include <vector>

namespace penstock::jinja {

class Value;
class Dict;
class Interpreter;
struct Arguments;

/// How deep lists, dicts and bound methods may hold each other. Beyond it an Error: destroying, comparing and
/// printing all recurse.
constexpr size_t kMaxDepth = 200;

/// Anything that is iterated; what else it can do depends on its kind.
struct Sequence {
  enum class Kind : uint8_t { list, tuple, view, range, generator };
  std::vector<Value> items;
  Kind kind = Kind::list;
  size_t depth = 1;
  mutable bool consumed = false;  // a generator gives its items once
};

/// A thing with behaviour: a function, a macro, a namespace, the loop variable.
class Object {
 public:
  virtual ~Object() = default;
  virtual std::string_view type_name() const = 0;
  /// The attribute; an undefined Value when there is none.
  virtual Value attribute(Interpreter& run, const std::string& name);
  virtual bool callable() const { return false; }
  virtual Value call(Interpreter& run, const Arguments& arguments);
  virtual size_t depth() const { return 1; }
};

/// The result of a lookup that found nothing: prints as nothing, is false, and fails when used for more.
struct Undefined {
  std::shared_ptr<const std::string> what;  // "'x' is undefined"; null for one without a name
};
struct None {};

class Value {
 public:
  using Text = std::shared_ptr<const std::string>;
  using Variant = std::variant<Undefined, None, bool, int64_t, double, Text, std::shared_ptr<const Sequence>,
                               std::shared_ptr<const Dict>, std::shared_ptr<Object>>;

  Value() : v_(None{}) {}
  Value(bool b) : v_(b) {}
  Value(int64_t i) : v_(i) {}
  Value(double d) : v_(d) {}
  Value(std::string s) : v_(std::make_shared<const std::string>(std::move(s))) {}
  Value(const char* s) : Value(std::string(s)) {}
  Value(std::shared_ptr<const Sequence> s) : v_(std::move(s)) {}
  Value(std::shared_ptr<const Dict> d) : v_(std::move(d)) {}
  Value(std::shared_ptr<Object> o) : v_(std::move(o)) {}
  static Value undefined(std::string what);
  /// Text that `safe` or `escape` made (Jinja's Markup): added to other text, it has that escaped for HTML.
  static Value markup(std::string s);
  static Value undefined() { return Value(Undefined{}); }
  static Value list(std::vector<Value> items, Sequence::Kind kind = Sequence::Kind::list);
  static Value dict(Dict dict);
  /// Throws Error for numbers beyond 64 bits and for nesting beyond kMaxDepth.
  static Value from_json(const nlohmann::ordered_json& json);

  bool is_undefined() const { return std::holds_alternative<Undefined>(v_); }
  bool is_none() const { return std::holds_alternative<None>(v_); }
  bool is_bool() const { return std::holds_alternative<bool>(v_); }
  bool is_markup() const { return is_markup_; }
  bool is_text() const { return std::holds_alternative<Text>(v_); }
  /// int or bool, as in Python.
  bool is_integer() const { return std::holds_alternative<int64_t>(v_) || is_bool(); }
  bool is_float() const { return std::holds_alternative<double>(v_); }
  bool is_number() const { return is_integer() || is_float(); }

  const std::string& text() const { return *std::get<Text>(v_); }
  bool boolean() const { return std::get<bool>(v_); }
  int64_t integer() const { return is_bool() ? (boolean() ? 1 : 0) : std::get<int64_t>(v_); }
  double number() const { return is_float() ? std::get<double>(v_) : static_cast<double>(integer()); }
  /// nullptr when the value is something else.
  const Sequence* sequence() const;
  const Dict* dict() const;
  Object* object() const;
  const Undefined& as_undefined() const { return std::get<Undefined>(v_); }

  bool truth() const;
  size_t depth() const;
  /// Python's name of the type: "str", "dict".
  std::string_view type_name() const;
  /// Python's `is`, as far as it can be seen.
  bool same_as(const Value& other) const;

 private:
  explicit Value(Undefined u) : v_(std::move(u)) {}
  Variant v_;
  bool is_markup_ = false;
};

/// A dict in order of insertion.
class Dict {
 public:
  using Item = std::pair<Value, Value>;
  void set(Value key, Value value);
  /// nullptr when the key is not there.
  const Value* find(const Value& key) const;
  const Value* find_text(std::string_view key) const;
  const std::vector<Item>& items() const { return items_; }
  size_t depth() const { return depth_; }

 private:
  std::vector<Item> items_;
  std::unordered_map<std::string_view, size_t> by_text_;  // views of the keys' own strings, which do not move
  size_t depth_ = 1;
};

}  // namespace penstock::jinja
