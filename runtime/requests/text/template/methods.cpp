// Methods of lists, tuples and dicts, and which methods there are. Those of strings are in text_methods.cpp.
#include <algorithm>
#include <array>

#include "runtime/requests/text/template/arguments.h"
#include "runtime/requests/text/template/library.h"
#include "runtime/requests/text/template/text_methods.h"

namespace penstock::jinja {
namespace {

constexpr std::array<std::string_view, 5> kDictMethods{"copy", "get", "items", "keys", "values"};
constexpr std::array<std::string_view, 3> kListMethods{"copy", "count", "index"};
constexpr std::array<std::string_view, 8> kListChanges{"append", "clear",  "extend",  "insert",
                                                       "pop",    "remove", "reverse", "sort"};
constexpr std::array<std::string_view, 5> kDictChanges{"clear", "pop", "popitem", "setdefault", "update"};

template <size_t N>
bool is_in(const std::array<std::string_view, N>& names, std::string_view name) {
  return std::find(names.begin(), names.end(), name) != names.end();
}

bool is_list_or_tuple(const Value& v) {
  const Sequence* s = v.sequence();
  return s != nullptr && (s->kind == Sequence::Kind::list || s->kind == Sequence::Kind::tuple);
}

Value dict_method(Interpreter& run, const Dict& dict, const std::string& name, const Arguments& arguments) {
  if (name == "get") {
    const Bound a(run, "get", arguments, {"key", "default"}, 1);
    if (!a[0].is_text()) run.work(dict.items().size());
    const Value* found = dict.find(a[0]);
    return found != nullptr ? *found : a.value(1, Value());
  }
  const Bound none(run, name, arguments, {});
  if (name == "copy") return run.dict(dict);
  std::vector<Value> out;
  for (const auto& [key, value] : dict.items()) {
    if (name == "keys") {
      out.push_back(key);
    } else if (name == "values") {
      out.push_back(value);
    } else {
      out.push_back(run.list({key, value}, Sequence::Kind::tuple));
    }
  }
  return run.list(std::move(out), Sequence::Kind::view);
}

Value list_method(Interpreter& run, const Sequence& list, const std::string& name,
                  const Arguments& arguments) {
  if (name == "copy") return run.list(list.items, list.kind);
  const Bound a(run, name, arguments, {"value"}, 1);
  if (name == "count") {
    return static_cast<int64_t>(std::count_if(list.items.begin(), list.items.end(),
                                              [&](const Value& item) { return run.equal(item, a[0]); }));
  }
  for (size_t i = 0; i < list.items.size(); ++i) {
    if (run.equal(list.items[i], a[0])) return static_cast<int64_t>(i);
  }
  run.fail("the value is not in the list.");
}

}  // namespace

bool has_method(const Value& subject, const std::string& name) {
  if (subject.is_text()) return has_text_method(name);
  if (subject.dict() != nullptr) return is_in(kDictMethods, name);
  return is_list_or_tuple(subject) && is_in(kListMethods, name) &&
         (name != "copy" || subject.sequence()->kind == Sequence::Kind::list);
}

bool is_mutating_method(const Value& subject, const std::string& name) {
  if (subject.dict() != nullptr) return is_in(kDictChanges, name);
  return subject.sequence() != nullptr && subject.sequence()->kind == Sequence::Kind::list &&
         is_in(kListChanges, name);
}

Value call_method(Interpreter& run, const Value& subject, const std::string& name,
                  const Arguments& arguments) {
  if (subject.is_text()) return call_text_method(run, subject.text(), name, arguments);
  if (const Dict* dict = subject.dict()) return dict_method(run, *dict, name, arguments);
  return list_method(run, *subject.sequence(), name, arguments);
}

}  // namespace penstock::jinja
