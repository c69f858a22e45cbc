#include "runtime/requests/text/template/value.h"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "runtime/base/error.h"

namespace penstock::jinja {
namespace {

template <typename... F>
struct Overloaded : F... {
  using F::operator()...;
};
template <typename... F>
Overloaded(F...) -> Overloaded<F...>;

void check_depth(size_t depth) {
  if (depth > kMaxDepth) {
    throw Error("a value nests lists or dicts more than " + std::to_string(kMaxDepth) + " deep.");
  }
}

Value from_json_at(const nlohmann::ordered_json& json, size_t depth) {
  check_depth(depth);
  switch (json.type()) {
    case nlohmann::json::value_t::boolean:
      return json.get<bool>();
    case nlohmann::json::value_t::number_integer:
      return json.get<int64_t>();
    case nlohmann::json::value_t::number_unsigned:
      if (json.get<uint64_t>() > INT64_MAX)
        throw Error("the number " + json.dump() + " does not fit 64 bits.");
      return json.get<int64_t>();
    case nlohmann::json::value_t::number_float:
      return json.get<double>();
    case nlohmann::json::value_t::string:
      return json.get<std::string>();
    case nlohmann::json::value_t::array: {
      std::vector<Value> items;
      items.reserve(json.size());
      for (const auto& item : json) items.push_back(from_json_at(item, depth + 1));
      return Value::list(std::move(items));
    }
    case nlohmann::json::value_t::object: {
      Dict dict;
      for (const auto& [key, item] : json.items()) dict.set(key, from_json_at(item, depth + 1));
      return Value::dict(std::move(dict));
    }
    default:
      return {};
  }
}

}  // namespace

Value Object::attribute(Interpreter& /*run*/, const std::string& name) {
  return Value::undefined("'" + std::string(type_name()) + " object' has no attribute '" + name + "'");
}

Value Object::call(Interpreter& /*run*/, const Arguments& /*arguments*/) {
  throw Error("'" + std::string(type_name()) + "' object is not callable.");
}

Value Value::undefined(std::string what) {
  return Value(Undefined{std::make_shared<const std::string>(std::move(what))});
}

Value Value::markup(std::string s) {
  Value v(std::move(s));
  v.is_markup_ = true;
  return v;
}

Value Value::list(std::vector<Value> items, Sequence::Kind kind) {
  auto made = std::make_shared<Sequence>();
  for (const Value& item : items) made->depth = std::max(made->depth, item.depth() + 1);
  check_depth(made->depth);
  made->items = std::move(items);
  made->kind = kind;
  return {std::shared_ptr<const Sequence>(std::move(made))};
}

Value Value::dict(Dict dict) {
  check_depth(dict.depth());
  return {std::make_shared<const Dict>(std::move(dict))};
}

Value Value::from_json(const nlohmann::ordered_json& json) {
  return from_json_at(json, 0);
}

const Sequence* Value::sequence() const {
  const auto* p = std::get_if<std::shared_ptr<const Sequence>>(&v_);
  return p == nullptr ? nullptr : p->get();
}

const Dict* Value::dict() const {
  const auto* p = std::get_if<std::shared_ptr<const Dict>>(&v_);
  return p == nullptr ? nullptr : p->get();
}

Object* Value::object() const {
  const auto* p = std::get_if<std::shared_ptr<Object>>(&v_);
  return p == nullptr ? nullptr : p->get();
}

bool Value::truth() const {
  return std::visit(Overloaded{[](const Undefined&) { return false; }, [](None) { return false; },
                               [](bool b) { return b; }, [](int64_t i) { return i != 0; },
                               [](double d) { return d != 0; }, [](const Text& s) { return !s->empty(); },
                               [](const std::shared_ptr<const Sequence>& s) {
                                 return s->kind == Sequence::Kind::generator || !s->items.empty();
                               },
                               [](const std::shared_ptr<const Dict>& d) { return !d->items().empty(); },
                               [](const std::shared_ptr<Object>&) { return true; }},
                    v_);
}

size_t Value::depth() const {
  if (const Sequence* s = sequence()) return s->depth;
  if (const Dict* d = dict()) return d->depth();
  if (const Object* o = object()) return o->depth();
  return 0;
}

std::string_view Value::type_name() const {
  return std::visit(Overloaded{[](const Undefined&) -> std::string_view { return "Undefined"; },
                               [](None) -> std::string_view { return "NoneType"; },
                               [](bool) -> std::string_view { return "bool"; },
                               [](int64_t) -> std::string_view { return "int"; },
                               [](double) -> std::string_view { return "float"; },
                               [](const Text&) -> std::string_view { return "str"; },
                               [](const std::shared_ptr<const Sequence>& s) -> std::string_view {
                                 switch (s->kind) {
                                   case Sequence::Kind::list:
                                     return "list";
                                   case Sequence::Kind::tuple:
                                     return "tuple";
                                   case Sequence::Kind::view:
                                     return "dict view";
                                   case Sequence::Kind::range:
                                     return "range";
                                   case Sequence::Kind::generator:
                                     return "generator";
                                 }
                                 return "list";
                               },
                               [](const std::shared_ptr<const Dict>&) -> std::string_view { return "dict"; },
                               [](const std::shared_ptr<Object>& o) { return o->type_name(); }},
                    v_);
}

bool Value::same_as(const Value& other) const {
  if (v_.index() != other.v_.index()) return false;
  return std::visit(
      Overloaded{[&](const Undefined&) { return false; }, [](None) { return true; },
                 [&](const auto& mine) { return mine == std::get<std::decay_t<decltype(mine)>>(other.v_); }},
      v_);
}

void Dict::set(Value key, Value value) {
  depth_ = std::max({depth_, key.depth() + 1, value.depth() + 1});
  if (const Value* known = find(key)) {
    for (auto& [other, old] : items_) {
      if (&old == known) old = std::move(value);
    }
    return;
  }
  if (key.is_text()) by_text_.emplace(key.text(), items_.size());
  items_.emplace_back(std::move(key), std::move(value));
}

const Value* Dict::find_text(std::string_view key) const {
  const auto found = by_text_.find(key);
  return found == by_text_.end() ? nullptr : &items_[found->second].second;
}

const Value* Dict::find(const Value& key) const {
  if (key.is_text()) return find_text(key.text());
  for (const auto& [known, value] : items_) {
    if (known.same_as(key) || (known.is_undefined() && key.is_undefined()) ||
        (known.is_number() && key.is_number() && known.number() == key.number()))
      return &value;
  }
  return nullptr;
}

}  // namespace penstock::jinja
