// Filters on sequences: order, grouping, joining.
#include <algorithm>
#include <unordered_map>

#include "runtime/requests/text/template/arguments.h"
#include "runtime/requests/text/template/library.h"
#include "runtime/requests/text/template/python_text.h"
#include "runtime/requests/text/utf8.h"

namespace penstock::jinja {
namespace {

using Filter = Value (*)(Interpreter&, const Value&, const Arguments&);
using Keyed = std::pair<Value, Value>;  // sort key, item

Value folded(Interpreter& run, const Value& value, bool case_sensitive) {
  return !case_sensitive && value.is_text() ? run.text(python::lower(value.text())) : value;
}

/// The values of "a,b.c" of an item as a list, for sorting by several.
Value sort_key(Interpreter& run, const Value& item, const Value* attribute, bool case_sensitive) {
  if (attribute == nullptr) return folded(run, item, case_sensitive);
  if (!attribute->is_text())
    return folded(run, attribute_path(run, item, *attribute, nullptr), case_sensitive);
  std::vector<Value> keys;
  for (std::string& path : python::split(attribute->text(), ",", -1)) {
    keys.push_back(folded(run, attribute_path(run, item, Value(std::move(path)), nullptr), case_sensitive));
  }
  return run.list(std::move(keys));
}

void sort_by_key(Interpreter& run, std::vector<Keyed>& items, bool reverse) {
  // Python sorts stably in both directions.
  std::stable_sort(items.begin(), items.end(), [&](const Keyed& a, const Keyed& b) {
    return reverse ? run.less(b.first, a.first) : run.less(a.first, b.first);
  });
}

std::vector<Value> second_of(std::vector<Keyed> items) {
  std::vector<Value> out;
  out.reserve(items.size());
  for (Keyed& item : items) out.push_back(std::move(item.second));
  return out;
}

Value sort(Interpreter& run, const Value& subject, const Arguments& arguments) {
  const Bound a(run, "sort", arguments, {"reverse", "case_sensitive", "attribute"});
  std::vector<Keyed> items;
  for (Value& item : run.iterate(subject))
    items.emplace_back(sort_key(run, item, a.unless_none(2), a.truth(1, false)), item);
  sort_by_key(run, items, a.truth(0, false));
  return run.list(second_of(std::move(items)));
}

Value dictsort(Interpreter& run, const Value& subject, const Arguments& arguments) {
  const Bound a(run, "dictsort", arguments, {"case_sensitive", "by", "reverse"});
  const std::string by = a.text(1, "key");
  if (by != "key" && by != "value") run.fail("You can only sort by either \"key\" or \"value\".");
  const Dict* dict = subject.dict();
  if (dict == nullptr) run.fail("dictsort expects a dict, found " + std::string(subject.type_name()) + ".");
  std::vector<Keyed> items;
  for (const auto& [key, value] : dict->items()) {
    items.emplace_back(folded(run, by == "key" ? key : value, a.truth(0, false)),
                       run.list({key, value}, Sequence::Kind::tuple));
  }
  sort_by_key(run, items, a.truth(2, false));
  return run.list(second_of(std::move(items)));
}

Value groupby(Interpreter& run, const Value& subject, const Arguments& arguments) {
  const Bound a(run, "groupby", arguments, {"attribute", "default", "case_sensitive"}, 1);
  const bool case_sensitive = a.truth(2, false);
  std::vector<Keyed> items;
  for (Value& item : run.iterate(subject)) {
    items.emplace_back(folded(run, attribute_path(run, item, a[0], a.unless_none(1)), case_sensitive), item);
  }
  sort_by_key(run, items, false);
  std::vector<Value> out;
  for (size_t i = 0; i < items.size();) {
    size_t end = i;
    std::vector<Value> group;
    while (end < items.size() && run.equal(items[end].first, items[i].first))
      group.push_back(items[end++].second);
    const Value name = attribute_path(run, group.front(), a[0], a.unless_none(1));
    out.push_back(run.list({name, run.list(std::move(group))}, Sequence::Kind::tuple));
    i = end;
  }
  return run.list(std::move(out));
}

Value unique(Interpreter& run, const Value& subject, const Arguments& arguments) {
  const Bound a(run, "unique", arguments, {"case_sensitive", "attribute"});
  Dict seen;
  std::vector<Value> out;
  for (const Value& item : run.iterate(subject)) {
    Value key = a.unless_none(1) != nullptr ? attribute_path(run, item, a[1], nullptr) : item;
    key = folded(run, key, a.truth(0, false));
    if (key.dict() != nullptr || (key.sequence() != nullptr && key.sequence()->kind == Sequence::Kind::list))
      run.fail("unhashable type: '" + std::string(key.type_name()) + "'.");
    if (!key.is_text()) run.work(seen.items().size());
    if (seen.find(key) != nullptr) continue;
    seen.set(std::move(key), Value(true));
    out.push_back(item);
  }
  return run.list(std::move(out), Sequence::Kind::generator);
}

template <bool kLeast>
Value extreme(Interpreter& run, const Value& subject, const Arguments& arguments) {
  const Bound a(run, kLeast ? "min" : "max", arguments, {"case_sensitive", "attribute"});
  const std::vector<Value> items = run.iterate(subject);
  if (items.empty()) return Value::undefined("No aggregated item, sequence was empty");
  std::optional<Keyed> best;
  for (const Value& item : items) {
    Value key = a.unless_none(1) != nullptr ? attribute_path(run, item, a[1], nullptr) : item;
    key = folded(run, key, a.truth(0, false));
    if (!best || (kLeast ? run.less(key, best->first) : run.less(best->first, key)))
      best = Keyed{std::move(key), item};
  }
  return best->second;
}

Value join(Interpreter& run, const Value& subject, const Arguments& arguments) {
  const Bound a(run, "join", arguments, {"d", "attribute"});
  const std::string between = a.has(0) ? run.to_text(a[0]) : "";
  std::string out;
  bool any = false;
  for (const Value& item : run.iterate(subject)) {
    if (any) out += between;
    any = true;
    out += run.to_text(a.unless_none(1) != nullptr ? attribute_path(run, item, a[1], nullptr) : item);
    if (out.size() > run.memory_left()) run.fail("the template makes too much data.");
  }
  return run.text(std::move(out));
}

Value first(Interpreter& run, const Value& subject, const Arguments& arguments) {
  const Bound none(run, "first", arguments, {});
  if (subject.is_text()) {
    const std::string& s = subject.text();
    return s.empty() ? Value::undefined("No first item, sequence was empty")
                     : run.text(s.substr(0, utf8::length(s[0])));
  }
  const std::vector<Value> items = run.iterate(subject);
  return items.empty() ? Value::undefined("No first item, sequence was empty") : items.front();
}

Value last(Interpreter& run, const Value& subject, const Arguments& arguments) {
  const Bound none(run, "last", arguments, {});
  const Sequence* s = subject.sequence();
  if (s != nullptr && s->kind == Sequence::Kind::generator) run.fail("'generator' object is not reversible.");
  const std::vector<Value> items = run.iterate(subject);
  return items.empty() ? Value::undefined("No last item, sequence was empty") : items.back();
}

Value reverse(Interpreter& run, const Value& subject, const Arguments& arguments) {
  const Bound none(run, "reverse", arguments, {});
  std::vector<Value> items = run.iterate(subject);
  std::reverse(items.begin(), items.end());
  if (!subject.is_text()) return run.list(std::move(items), Sequence::Kind::generator);
  std::string out;
  for (const Value& item : items) out += item.text();
  return run.text(std::move(out));
}

Value to_list(Interpreter& run, const Value& subject, const Arguments& arguments) {
  const Bound none(run, "list", arguments, {});
  return run.list(run.iterate(subject));
}

Value items(Interpreter& run, const Value& subject, const Arguments& arguments) {
  const Bound none(run, "items", arguments, {});
  if (subject.is_undefined()) return run.list({}, Sequence::Kind::generator);
  if (subject.dict() == nullptr) run.fail("Can only get item pairs from a mapping.");
  std::vector<Value> out;
  for (const auto& [key, value] : subject.dict()->items())
    out.push_back(run.list({key, value}, Sequence::Kind::tuple));
  return run.list(std::move(out), Sequence::Kind::generator);
}

Value batch(Interpreter& run, const Value& subject, const Arguments& arguments) {
  const Bound a(run, "batch", arguments, {"linecount", "fill_with"}, 1);
  const int64_t size = a.integer(0, 1);
  std::vector<Value> out;
  std::vector<Value> row;
  for (const Value& item : run.iterate(subject)) {
    if (static_cast<int64_t>(row.size()) == size) out.push_back(run.list(std::exchange(row, {})));
    row.push_back(item);
  }
  if (!row.empty()) {
    if (const Value* fill = a.unless_none(1); fill != nullptr && size > static_cast<int64_t>(row.size())) {
      if (static_cast<uint64_t>(size) > run.memory_left() / sizeof(Value))
        run.fail("the template makes too much data.");
      row.resize(static_cast<size_t>(size), *fill);
    }
    out.push_back(run.list(std::move(row)));
  }
  return run.list(std::move(out), Sequence::Kind::generator);
}

Value slice(Interpreter& run, const Value& subject, const Arguments& arguments) {
  const Bound a(run, "slice", arguments, {"slices", "fill_with"}, 1);
  const int64_t slices = a.integer(0, 1);
  const std::vector<Value> all = run.iterate(subject);
  if (slices <= 0 || slices > 100'000)
    run.fail("slice: expected 1 to 100000 slices, found " + std::to_string(slices) + ".");
  const size_t each = all.size() / static_cast<size_t>(slices);
  const size_t with_extra = all.size() % static_cast<size_t>(slices);
  std::vector<Value> out;
  auto at = all.begin();
  for (size_t i = 0; i < static_cast<size_t>(slices); ++i) {
    const auto end = at + static_cast<ptrdiff_t>(each + (i < with_extra ? 1 : 0));
    std::vector<Value> one(at, end);
    if (a.unless_none(1) != nullptr && i >= with_extra) one.push_back(a[1]);
    out.push_back(run.list(std::move(one)));
    at = end;
  }
  return run.list(std::move(out), Sequence::Kind::generator);
}

}  // namespace

std::optional<Value> sequence_filter(Interpreter& run, const std::string& name, const Value& subject,
                                     const Arguments& arguments) {
  static const std::unordered_map<std::string_view, Filter> table{
      {"batch", batch},        {"dictsort", dictsort}, {"first", first},     {"groupby", groupby},
      {"items", items},        {"join", join},         {"last", last},       {"list", to_list},
      {"max", extreme<false>}, {"min", extreme<true>}, {"reverse", reverse}, {"slice", slice},
      {"sort", sort},          {"unique", unique},
  };
  const auto found = table.find(name);
  if (found == table.end()) return std::nullopt;
  return found->second(run, subject, arguments);
}

}  // namespace penstock::jinja
