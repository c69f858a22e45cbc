// Filters that make numbers, and the ones that choose between values.
#include <algorithm>
#include <charconv>
#include <cmath>
#include <unordered_map>

#include "runtime/requests/text/template/arguments.h"
#include "runtime/requests/text/template/library.h"
#include "runtime/requests/text/template/python_text.h"

namespace penstock::jinja {
namespace {

using Filter = Value (*)(Interpreter&, const Value&, const Arguments&);

/// int("...", base) and float("..."): white space around, a sign, underscores between digits.
std::string plain_number(std::string_view s) {
  std::string out;
  s = python::strip(s);
  for (size_t i = 0; i < s.size(); ++i) {
    if (s[i] == '_' && i > 0 && i + 1 < s.size() && s[i - 1] != '_') continue;
    if (i == 0 && s[i] == '+' && s.size() > 1 && s[1] != '-' && s[1] != '+') continue;
    out += s[i];
  }
  return out;
}

std::optional<int64_t> parse_integer(std::string_view text, int base) {
  std::string s = plain_number(text);
  const bool negative = !s.empty() && s[0] == '-';
  if (negative) s.erase(0, 1);
  if (s.size() > 2 && s[0] == '0' &&
      ((base == 16 && (s[1] | 0x20) == 'x') || (base == 8 && (s[1] | 0x20) == 'o') ||
       (base == 2 && (s[1] | 0x20) == 'b')))
    s.erase(0, 2);
  int64_t value = 0;
  const auto [end, error] = std::from_chars(s.data(), s.data() + s.size(), value, base);
  if (error != std::errc() || end != s.data() + s.size() || value < 0) return std::nullopt;
  return negative ? -value : value;
}

std::optional<double> parse_float(std::string_view text) {
  const std::string s = plain_number(text);
  double value = 0;
  const auto [end, error] = std::from_chars(s.data(), s.data() + s.size(), value);
  if (end != s.data() + s.size() || s.empty() ||
      (error != std::errc() && error != std::errc::result_out_of_range))
    return std::nullopt;
  return value;
}

std::optional<int64_t> whole(double d) {
  if (!(std::fabs(d) < 9.2e18)) return std::nullopt;
  return static_cast<int64_t>(d);
}

Value to_integer(Interpreter& run, const Value& subject, const Arguments& arguments) {
  const Bound a(run, "int", arguments, {"default", "base"});
  const int64_t base = a.integer(1, 10);
  if (base < 2 || base > 36) run.fail("int: the base must be 2 to 36, found " + std::to_string(base) + ".");
  run.require_defined(subject);
  std::optional<int64_t> out;
  if (subject.is_text()) {
    out = parse_integer(subject.text(), static_cast<int>(base));
    if (!out) {
      if (const std::optional<double> real = parse_float(subject.text())) out = whole(*real);
    }
  } else if (subject.is_number()) {
    out = subject.is_integer() ? subject.integer() : whole(subject.number());
    if (!out && std::isfinite(subject.number())) run.fail("the integer is beyond 64 bits.");
  }
  return out ? Value(*out) : a.value(0, Value(int64_t{0}));
}

Value to_float(Interpreter& run, const Value& subject, const Arguments& arguments) {
  const Bound a(run, "float", arguments, {"default"});
  run.require_defined(subject);
  std::optional<double> out;
  if (subject.is_text()) out = parse_float(subject.text());
  if (subject.is_number()) out = subject.number();
  return out ? Value(*out) : a.value(0, Value(0.0));
}

Value absolute(Interpreter& run, const Value& subject, const Arguments& arguments) {
  const Bound none(run, "abs", arguments, {});
  run.require_defined(subject);
  if (!subject.is_number())
    run.fail("bad operand type for abs(): '" + std::string(subject.type_name()) + "'.");
  if (subject.is_float()) return std::fabs(subject.number());
  if (subject.integer() == INT64_MIN) run.fail("the integer is beyond 64 bits.");
  return subject.integer() < 0 ? -subject.integer() : subject.integer();
}

/// Python's round: half to even, on the decimal value that the double stands for.
double round_to(double value, int digits) {
  if (digits > 300 || !std::isfinite(value)) return value;
  if (digits < -300) return 0;
  if (digits < 0) {
    const double scale = std::pow(10.0, -digits);
    return std::nearbyint(value / scale) * scale;
  }
  char buffer[700];
  const auto end = std::to_chars(buffer, buffer + sizeof(buffer), value, std::chars_format::fixed, digits);
  double out = 0;
  std::from_chars(buffer, end.ptr, out);
  return out;
}

Value round(Interpreter& run, const Value& subject, const Arguments& arguments) {
  const Bound a(run, "round", arguments, {"precision", "method"});
  const std::string method = a.text(1, "common");
  const auto digits = static_cast<int>(std::clamp<int64_t>(a.integer(0, 0), -1000, 1000));
  run.require_defined(subject);
  if (!subject.is_number()) run.fail("type " + std::string(subject.type_name()) + " doesn't define round.");
  if (method == "common") {
    if (subject.is_integer() && digits >= 0) return subject.integer();
    const double out = round_to(subject.number(), digits);
    if (subject.is_integer()) return static_cast<int64_t>(out);
    return out;
  }
  if (method != "ceil" && method != "floor") run.fail("round: method must be common, ceil or floor.");
  const double scale = std::pow(10.0, digits);
  const double scaled = subject.number() * scale;
  return (method == "ceil" ? std::ceil(scaled) : std::floor(scaled)) / scale;
}

Value otherwise(Interpreter& run, const Value& subject, const Arguments& arguments) {
  const Bound a(run, "default", arguments, {"default_value", "boolean"});
  const bool replaces = subject.is_undefined() || (a.truth(1, false) && !subject.truth());
  return replaces ? a.value(0, Value("")) : subject;
}

Value length(Interpreter& run, const Value& subject, const Arguments& arguments) {
  const Bound none(run, "length", arguments, {});
  if (subject.is_text()) {
    run.work(subject.text().size());
    return static_cast<int64_t>(python::length(subject.text()));
  }
  if (const Dict* d = subject.dict()) return static_cast<int64_t>(d->items().size());
  if (const Sequence* s = subject.sequence(); s != nullptr && s->kind != Sequence::Kind::generator) {
    return static_cast<int64_t>(s->items.size());
  }
  if (subject.is_undefined()) return int64_t{0};
  run.fail("object of type '" + std::string(subject.type_name()) + "' has no len().");
}

Value sum(Interpreter& run, const Value& subject, const Arguments& arguments) {
  const Bound a(run, "sum", arguments, {"attribute", "start"});
  Value total = a.value(1, Value(int64_t{0}));
  for (const Value& item : run.iterate(subject)) {
    const Value value = a.unless_none(0) != nullptr ? attribute_path(run, item, a[0], nullptr) : item;
    if (value.is_text())
      run.fail("unsupported operand type(s) for +: '" + std::string(total.type_name()) + "' and 'str'.");
    total = run.add(total, value);
  }
  return total;
}

}  // namespace

std::optional<Value> number_filter(Interpreter& run, const std::string& name, const Value& subject,
                                   const Arguments& arguments) {
  static const std::unordered_map<std::string_view, Filter> table{
      {"abs", absolute},   {"count", length},  {"d", otherwise}, {"default", otherwise}, {"float", to_float},
      {"int", to_integer}, {"length", length}, {"round", round}, {"sum", sum},
  };
  const auto found = table.find(name);
  if (found == table.end()) return std::nullopt;
  return found->second(run, subject, arguments);
}

}  // namespace penstock::jinja
