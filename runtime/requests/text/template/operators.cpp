// Python's operators on values.
#include <algorithm>
#include <cmath>

#include "runtime/requests/text/template/guards.h"
#include "runtime/requests/text/template/interpreter.h"
#include "runtime/requests/text/template/library.h"
#include "runtime/requests/text/template/python_text.h"

namespace penstock::jinja {
namespace {

std::string quoted_type(const Value& v) {
  return "'" + std::string(v.type_name()) + "'";
}

}  // namespace

bool Interpreter::equal(const Value& a, const Value& b) {
  work(100);
  if (a.is_number() && b.is_number()) {
    return a.is_integer() && b.is_integer() ? a.integer() == b.integer() : a.number() == b.number();
  }
  if (a.is_text() && b.is_text()) {
    if (a.text().size() != b.text().size()) return false;
    work(a.text().size());
    return a.text() == b.text();
  }
  if (a.is_undefined() && b.is_undefined()) return true;
  if (const Sequence* s = a.sequence(), *t = b.sequence(); s != nullptr && t != nullptr) {
    if (s == t) return true;
    if (s->kind != t->kind || s->items.size() != t->items.size() || s->kind == Sequence::Kind::generator)
      return false;
    return std::equal(s->items.begin(), s->items.end(), t->items.begin(),
                      [&](const Value& x, const Value& y) { return equal(x, y); });
  }
  if (const Dict* d = a.dict(), *f = b.dict(); d != nullptr && f != nullptr) {
    if (d->items().size() != f->items().size()) return false;
    return std::all_of(d->items().begin(), d->items().end(), [&](const Dict::Item& item) {
      const Value* other = f->find(item.first);
      return other != nullptr && equal(item.second, *other);
    });
  }
  return a.same_as(b);
}

bool Interpreter::less(const Value& a, const Value& b) {
  work(100);
  require_defined(a);
  require_defined(b);
  if (a.is_number() && b.is_number()) {
    return a.is_integer() && b.is_integer() ? a.integer() < b.integer() : a.number() < b.number();
  }
  if (a.is_text() && b.is_text()) {
    work(std::min(a.text().size(), b.text().size()));
    return a.text() < b.text();  // the order of UTF-8 bytes is that of code points
  }
  const Sequence* s = a.sequence();
  const Sequence* t = b.sequence();
  if (s != nullptr && t != nullptr && s->kind == t->kind &&
      (s->kind == Sequence::Kind::list || s->kind == Sequence::Kind::tuple)) {
    for (size_t i = 0; i < std::min(s->items.size(), t->items.size()); ++i) {
      if (!equal(s->items[i], t->items[i])) return less(s->items[i], t->items[i]);
    }
    return s->items.size() < t->items.size();
  }
  fail("'<' not supported between instances of " + quoted_type(a) + " and " + quoted_type(b) + ".");
}

bool Interpreter::contains(const Value& container, const Value& value) {
  if (container.is_text()) {
    if (!value.is_text()) {
      require_defined(value);
      fail("'in <string>' requires string as left operand, not " + std::string(value.type_name()) + ".");
    }
    work(container.text().size() + value.text().size());
    return python::find(container.text(), value.text()) != std::string_view::npos;
  }
  if (const Dict* d = container.dict()) {
    if (!value.is_text()) work(d->items().size());
    return d->find(value) != nullptr;
  }
  if (const Sequence* s = container.sequence()) {
    return std::any_of(s->items.begin(), s->items.end(),
                       [&](const Value& item) { return equal(item, value); });
  }
  if (container.is_undefined()) return false;
  fail("argument of type " + quoted_type(container) + " is not iterable.");
}

bool Interpreter::compare(const std::string& op, const Value& a, const Value& b) {
  if (op == "==") return equal(a, b);
  if (op == "!=") return !equal(a, b);
  if (op == "in") return contains(b, a);
  if (op == "not in") return !contains(b, a);
  if (op == "<") return less(a, b);
  if (op == ">") return less(b, a);
  const bool is_less = op == "<=" ? less(a, b) : less(b, a);
  return is_less || equal(a, b);
}

Value Interpreter::add(const Value& a, const Value& b) {
  if (a.is_text() && b.is_text()) {
    charge(a.text().size() + b.text().size());
    if (!a.is_markup() && !b.is_markup()) return {a.text() + b.text()};
    std::string out = a.is_markup() ? a.text() : python::escape_html(a.text());
    out += b.is_markup() ? b.text() : python::escape_html(b.text());
    charge(out.size());
    return Value::markup(std::move(out));
  }
  const Sequence* s = a.sequence();
  const Sequence* t = b.sequence();
  if (s != nullptr && t != nullptr && s->kind == t->kind &&
      (s->kind == Sequence::Kind::list || s->kind == Sequence::Kind::tuple)) {
    std::vector<Value> items;
    charge((s->items.size() + t->items.size()) * sizeof(Value));
    items.reserve(s->items.size() + t->items.size());
    items.insert(items.end(), s->items.begin(), s->items.end());
    items.insert(items.end(), t->items.begin(), t->items.end());
    return list(std::move(items), s->kind);
  }
  if (a.is_text() && !b.is_undefined())
    fail("can only concatenate str (not \"" + std::string(b.type_name()) + "\") to str.");
  return arithmetic('+', a, b);
}

Value Interpreter::multiply(const Value& a, const Value& b) {
  const Value& times = a.is_integer() ? a : b;
  const Value& what = a.is_integer() ? b : a;
  if (!times.is_integer() || (!what.is_text() && what.sequence() == nullptr)) return arithmetic('*', a, b);
  const auto n = static_cast<size_t>(std::max<int64_t>(times.integer(), 0));
  if (what.is_text()) {
    const std::string& s = what.text();
    if (!s.empty() && n > memory_left() / s.size()) fail("the template makes too much data.");
    std::string out;
    charge(n * s.size());
    out.reserve(n * s.size());
    for (size_t i = 0; !s.empty() && i < n; ++i) out += s;
    return {std::move(out)};
  }
  const Sequence& s = *what.sequence();
  if (!s.items.empty() && n > memory_left() / (s.items.size() * sizeof(Value)))
    fail("the template makes too much data.");
  std::vector<Value> items;
  for (size_t i = 0; !s.items.empty() && i < n; ++i)
    items.insert(items.end(), s.items.begin(), s.items.end());
  return list(std::move(items), s.kind);
}

Value Interpreter::power(const Value& a, const Value& b) {
  if (!a.is_integer() || !b.is_integer() || b.integer() < 0) {
    if (a.is_number() && a.number() == 0 && b.is_number() && b.number() < 0)
      fail("0.0 cannot be raised to a negative power.");
    return arithmetic('^', a, b);
  }
  int64_t result = 1;
  int64_t base = a.integer();
  for (int64_t n = b.integer(); n > 0; n >>= 1) {
    if ((n & 1) != 0 && __builtin_mul_overflow(result, base, &result)) fail("the integer is beyond 64 bits.");
    if (n > 1 && __builtin_mul_overflow(base, base, &base)) fail("the integer is beyond 64 bits.");
  }
  return result;
}

Value Interpreter::arithmetic(char op, const Value& a, const Value& b) {
  require_defined(a);
  require_defined(b);
  if (!a.is_number() || !b.is_number()) {
    const std::string name = op == '^' ? "** or pow()" : op == 'd' ? "//" : std::string(1, op);
    fail("unsupported operand type(s) for " + name + ": " + quoted_type(a) + " and " + quoted_type(b) + ".");
  }
  if ((op == '/' || op == 'd' || op == '%') && b.number() == 0) fail("division by zero.");
  if (a.is_integer() && b.is_integer() && op != '/' && op != '^') {
    const int64_t x = a.integer();
    const int64_t y = b.integer();
    int64_t out = 0;
    bool overflow = false;
    switch (op) {
      case '+':
        overflow = __builtin_add_overflow(x, y, &out);
        break;
      case '-':
        overflow = __builtin_sub_overflow(x, y, &out);
        break;
      case '*':
        overflow = __builtin_mul_overflow(x, y, &out);
        break;
      case 'd':
        overflow = y == -1 && x == INT64_MIN;
        if (!overflow) out = x / y - ((x % y != 0 && (x % y < 0) != (y < 0)) ? 1 : 0);
        break;
      default:
        out = y == -1 ? 0 : x % y;
        if (out != 0 && (out < 0) != (y < 0)) out += y;
    }
    if (overflow) fail("the integer is beyond 64 bits.");
    return out;
  }
  const double x = a.number();
  const double y = b.number();
  switch (op) {
    case '+':
      return x + y;
    case '-':
      return x - y;
    case '*':
      return x * y;
    case '/':
      return x / y;
    case '^':
      return std::pow(x, y);
    default:
      break;
  }
  double rest = std::fmod(x, y);
  if (rest != 0 && (rest < 0) != (y < 0)) rest += y;
  if (rest == 0) rest = std::copysign(0.0, y);
  if (op == '%') return rest;
  const double quotient = (x - rest) / y;
  const double whole = std::floor(quotient);
  return quotient - whole > 0.5 ? whole + 1 : whole;
}

Value Interpreter::binary(const std::string& op, const Value& a, const Value& b) {
  if (op == "+") return add(a, b);
  if (op == "*") return multiply(a, b);
  if (op == "**") return power(a, b);
  if (op == "//") return arithmetic('d', a, b);
  if (op == "%" && a.is_text()) {
    const Sequence* sequence = b.sequence();
    std::vector<Value> positional{b};
    if (sequence != nullptr && sequence->kind == Sequence::Kind::tuple) positional = sequence->items;
    // Of a thing that has items, other than a tuple, Python lets a format leave some unused.
    static const Dict no_items;
    const bool has_items =
        b.is_undefined() || (sequence != nullptr && sequence->kind == Sequence::Kind::list);
    return text(percent_format(*this, a.text(), positional, has_items ? &no_items : b.dict()));
  }
  return arithmetic(op[0], a, b);
}

Value Interpreter::negate(const Value& a) {
  require_defined(a);
  if (!a.is_number()) fail("bad operand type for unary -: " + quoted_type(a) + ".");
  if (a.is_float()) return -a.number();
  if (a.integer() == INT64_MIN) fail("the integer is beyond 64 bits.");
  return -a.integer();
}

}  // namespace penstock::jinja
