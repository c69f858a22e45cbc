// Global functions.
#include <algorithm>
#include <ctime>

#include "runtime/requests/text/template/arguments.h"
#include "runtime/requests/text/template/library.h"
#include "runtime/requests/text/template/objects.h"

namespace penstock::jinja {
namespace {

constexpr int64_t kMaxRange = 100'000;  // Jinja's sandbox, MAX_RANGE

Value range(Interpreter& run, const Arguments& arguments) {
  const Bound a(run, "range", arguments, {"start", "stop", "step"}, 1);
  const int64_t start = a.has(1) ? a.integer(0, 0) : 0;
  const int64_t stop = a.has(1) ? a.integer(1, 0) : a.integer(0, 0);
  const int64_t step = a.integer(2, 1);
  if (step == 0) run.fail("range() arg 3 must not be zero.");
  std::vector<Value> items;
  for (int64_t i = start; step > 0 ? i < stop : i > stop;) {
    if (static_cast<int64_t>(items.size()) == kMaxRange) {
      run.fail("Range too big. The sandbox blocks ranges larger than MAX_RANGE (" +
               std::to_string(kMaxRange) + ").");
    }
    items.emplace_back(i);
    if (__builtin_add_overflow(i, step, &i)) break;
  }
  return run.list(std::move(items), Sequence::Kind::range);
}

/// What dict() and namespace() take: a dict or pairs, and keywords.
Dict gather(Interpreter& run, const Arguments& arguments, const char* name) {
  if (arguments.positional.size() > 1)
    run.fail(std::string(name) + "() takes at most one positional argument.");
  Dict out;
  if (!arguments.positional.empty()) {
    if (const Dict* d = arguments.positional[0].dict()) {
      out = *d;
    } else {
      for (const Value& pair : run.iterate(arguments.positional[0])) {
        const std::vector<Value> two = run.iterate(pair);
        if (two.size() != 2) run.fail(std::string(name) + "() expects pairs.");
        if (two[0].dict() != nullptr || two[0].sequence() != nullptr)
          run.fail("unhashable type: '" + std::string(two[0].type_name()) + "'.");
        out.set(two[0], two[1]);
      }
    }
  }
  for (const auto& [key, value] : arguments.named) out.set(run.text(key), value);
  return out;
}

Value make_namespace(Interpreter& run, const Arguments& arguments) {
  auto made = std::make_shared<Namespace>();
  const Value value = run.keep(made);
  const Dict names = gather(run, arguments, "namespace");
  for (const auto& [key, item] : names.items()) made->set(run, run.to_text(key), item);
  return value;
}

Value strftime_now(Interpreter& run, const Arguments& arguments) {
  const Bound a(run, "strftime_now", arguments, {"format"}, 1);
  const std::string& format = a.text(0);
  if (format.empty()) return Value("");
  const std::time_t now = std::time(nullptr);
  std::tm local{};
  localtime_r(&now, &local);
  std::string out(format.size() * 40 + 64, '\0');  // no conversion of the C locale is longer
  run.charge(out.size());
  out.resize(std::strftime(out.data(), out.size(), format.c_str(), &local));
  return run.text(std::move(out));
}

class Cycler : public Object {
 public:
  explicit Cycler(std::vector<Value> items) : items_(std::move(items)) {}
  std::string_view type_name() const override { return "Cycler"; }
  size_t depth() const override {
    size_t deepest = 1;
    for (const Value& item : items_) deepest = std::max(deepest, item.depth() + 1);
    return deepest;
  }
  Value attribute(Interpreter& run, const std::string& name) override {
    if (name == "current") return items_[at_];
    if (name != "next" && name != "reset") return Object::attribute(run, name);
    const bool resets = name == "reset";
    // The rendering keeps every cycler to its end, so that `this` outlives the function.
    return run.keep(std::make_shared<Function>([this, resets](Interpreter&, const Arguments&) {
      Value now = resets ? Value() : items_[at_];
      at_ = resets ? 0 : (at_ + 1) % items_.size();
      return now;
    }));
  }

 private:
  std::vector<Value> items_;
  size_t at_ = 0;
};

Value cycler(Interpreter& run, const Arguments& arguments) {
  if (arguments.positional.empty() || !arguments.named.empty())
    run.fail("at least one item has to be provided.");
  auto made = std::make_shared<Cycler>(arguments.positional);
  if (made->depth() > kMaxDepth) run.fail("cyclers are nested too deep.");
  return run.keep(std::move(made));
}

Value joiner(Interpreter& run, const Arguments& arguments) {
  const Bound a(run, "joiner", arguments, {"sep"});
  const Value separator = a.value(0, Value(", "));
  if (separator.depth() + 1 > kMaxDepth) run.fail("joiners are nested too deep.");
  const auto used = std::make_shared<bool>(false);
  return run.keep(std::make_shared<Function>(
      [separator, used](Interpreter&, const Arguments&) {
        return std::exchange(*used, true) ? separator : Value("");
      },
      separator.depth() + 1));
}

Value raise_exception(Interpreter& run, const Arguments& arguments) {
  const Bound a(run, "raise_exception", arguments, {"message"}, 1);
  run.fail(run.to_text(a[0]));
}

}  // namespace

std::optional<Value> global_function(Interpreter& run, const std::string& name) {
  Value (*code)(Interpreter&, const Arguments&) = nullptr;
  if (name == "range") code = range;
  if (name == "dict") code = [](Interpreter& r, const Arguments& a) { return r.dict(gather(r, a, "dict")); };
  if (name == "namespace") code = make_namespace;
  if (name == "cycler") code = cycler;
  if (name == "joiner") code = joiner;
  if (name == "raise_exception") code = raise_exception;
  if (name == "strftime_now") code = strftime_now;
  if (code == nullptr) return std::nullopt;
  return run.keep(std::make_shared<Function>(code));
}

}  // namespace penstock::jinja
