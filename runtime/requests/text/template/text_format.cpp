// Python's two ways to put values into a text: "%s" % x and "{}".format(x).
#include <cmath>
#include <cstdio>

#include "runtime/requests/text/template/format.h"
#include "runtime/requests/text/template/library.h"
#include "runtime/requests/text/template/python_text.h"
#include "runtime/requests/text/template/text_methods.h"
#include "runtime/requests/text/utf8.h"

namespace penstock::jinja {
namespace {

constexpr int64_t kMaxWidth = 100'000;

/// [[fill]align][sign][#][0][width][,][.precision][type]
struct Spec {
  std::string fill = " ";
  char align = 0;
  char sign = '-';
  bool alternate = false;
  bool commas = false;
  int64_t width = 0;
  int64_t precision = -1;
  char type = 0;
};

int64_t digits(const Interpreter& run, std::string_view& s) {
  int64_t value = 0;
  while (!s.empty() && s[0] >= '0' && s[0] <= '9') {
    value = value * 10 + (s[0] - '0');
    if (value > kMaxWidth) run.fail("a format is wider than " + std::to_string(kMaxWidth) + ".");
    s.remove_prefix(1);
  }
  return value;
}

Spec parse_spec(const Interpreter& run, std::string_view s) {
  Spec spec;
  const auto is_align = [](char c) { return c == '<' || c == '>' || c == '^' || c == '='; };
  if (!s.empty()) {
    const size_t n = utf8::length(s[0]);
    if (s.size() > n && is_align(s[n])) {
      spec.fill = s.substr(0, n);
      spec.align = s[n];
      s.remove_prefix(n + 1);
    } else if (is_align(s[0])) {
      spec.align = s[0];
      s.remove_prefix(1);
    }
  }
  const auto take = [&](std::string_view any) {
    if (s.empty() || any.find(s[0]) == std::string_view::npos) return '\0';
    const char c = s[0];
    s.remove_prefix(1);
    return c;
  };
  if (const char sign = take("+- ")) spec.sign = sign;
  spec.alternate = take("#") != 0;
  if (take("0") != 0 && spec.align == 0) {
    spec.fill = "0";
    spec.align = '=';
  }
  spec.width = digits(run, s);
  spec.commas = take(",") != 0;
  if (take(".") != 0) spec.precision = digits(run, s);
  if (!s.empty()) {
    spec.type = s[0];
    s.remove_prefix(1);
  }
  if (!s.empty()) run.fail("Invalid format specifier.");
  return spec;
}

std::string with_commas(const std::string& number) {
  size_t end = number.find_first_not_of("0123456789");
  if (end == std::string::npos) end = number.size();
  std::string out;
  for (size_t i = 0; i < end; ++i) {
    if (i > 0 && (end - i) % 3 == 0) out += ',';
    out += number[i];
  }
  return out + number.substr(end);
}

std::string in_base(uint64_t value, unsigned base, bool capitals) {
  const char* const digits = capitals ? "0123456789ABCDEF" : "0123456789abcdef";
  std::string out;
  do {
    out.insert(out.begin(), digits[value % base]);
    value /= base;
  } while (value != 0);
  return out;
}

std::string magnitude(const Interpreter& run, const Value& value, const Spec& spec) {
  const char type = spec.type;
  if (value.is_integer() &&
      (type == 0 || type == 'd' || type == 'x' || type == 'X' || type == 'o' || type == 'b' || type == 'n')) {
    const int64_t i = value.integer();
    const uint64_t u = i < 0 ? 0 - static_cast<uint64_t>(i) : static_cast<uint64_t>(i);
    switch (type) {
      case 'x':
        return (spec.alternate ? "0x" : "") + in_base(u, 16, false);
      case 'X':
        return (spec.alternate ? "0X" : "") + in_base(u, 16, true);
      case 'o':
        return (spec.alternate ? "0o" : "") + in_base(u, 8, false);
      case 'b':
        return (spec.alternate ? "0b" : "") + in_base(u, 2, false);
      default:
        return in_base(u, 10, false);
    }
  }
  double d = std::fabs(value.number());
  if (type == 0 && spec.precision < 0) return float_text(d);
  if (std::string_view("eEfFgG%").find(type) == std::string_view::npos && type != 0) {
    run.fail(std::string("Unknown format code '") + type + "' for object of type '" +
             std::string(value.type_name()) + "'.");
  }
  if (type == '%') d *= 100;
  const char code[] = {'%', spec.alternate ? '#' : '0', '.', '*', type == '%' ? 'f' : type == 0 ? 'g' : type,
                       '\0'};
  const int precision = spec.precision < 0 ? 6 : static_cast<int>(std::min<int64_t>(spec.precision, 1000));
  const int n = std::snprintf(nullptr, 0, code, precision, d);
  std::string out(static_cast<size_t>(n) + 1, '\0');
  std::snprintf(out.data(), out.size(), code, precision, d);
  out.pop_back();
  return type == '%' ? out + '%' : out;
}

std::string padded(Interpreter& run, const Spec& spec, const std::string& sign, const std::string& body,
                   char default_align) {
  const auto size = static_cast<int64_t>(python::length(sign) + python::length(body));
  if (spec.width <= size) return sign + body;
  std::string fill;
  for (int64_t i = size; i < spec.width; ++i) fill += spec.fill;
  switch (spec.align == 0 ? default_align : spec.align) {
    case '<':
      return sign + body + fill;
    case '=':
      return sign + fill + body;
    case '^': {
      const int64_t left = (spec.width - size) / 2;
      const size_t at = static_cast<size_t>(left) * spec.fill.size();
      return fill.substr(0, at) + sign + body + fill.substr(at);
    }
    default:
      run.work(fill.size());
      return fill + sign + body;
  }
}

std::string format_value(Interpreter& run, const Value& value, const Spec& spec) {
  const bool as_number = value.is_number() && spec.type != 's' && !(value.is_bool() && spec.type == 0);
  if (!as_number) {
    if (spec.type != 0 && spec.type != 's') {
      run.fail(std::string("Unknown format code '") + spec.type + "' for object of type '" +
               std::string(value.type_name()) + "'.");
    }
    std::string s = run.to_text(value);
    if (spec.precision >= 0) s.resize(python::offset(s, static_cast<size_t>(spec.precision)));
    return padded(run, spec, "", s, '<');
  }
  std::string body = magnitude(run, value, spec);
  if (spec.commas) body = with_commas(body);
  const std::string sign = std::signbit(value.number()) ? "-"
                           : spec.sign == '-'           ? ""
                                                        : std::string(1, spec.sign);
  return padded(run, spec, sign, body, '>');
}

/// Replacement fields of "{...}".
class BraceFormatter {
 public:
  BraceFormatter(Interpreter& run, const Arguments& arguments) : run_(run), arguments_(arguments) {}

  std::string format(std::string_view s) {
    std::string out;
    while (!s.empty()) {
      const char c = s[0];
      s.remove_prefix(1);
      if (c != '{' && c != '}') {
        out += c;
      } else if (!s.empty() && s[0] == c) {
        out += c;
        s.remove_prefix(1);
      } else if (c == '}') {
        run_.fail("Single '}' encountered in format string.");
      } else {
        const size_t end = s.find('}');
        if (end == std::string_view::npos) run_.fail("expected '}' before end of string.");
        out += field(s.substr(0, end));
        s.remove_prefix(end + 1);
      }
      if (out.size() > run_.memory_left()) run_.fail("the template makes too much data.");
    }
    return out;
  }

 private:
  std::string field(std::string_view f) {
    const size_t colon = f.find(':');
    std::string_view name = f.substr(0, colon);
    const std::string_view spec = colon == std::string_view::npos ? std::string_view() : f.substr(colon + 1);
    char conversion = 0;
    if (const size_t mark = name.find('!'); mark != std::string_view::npos) {
      conversion = mark + 1 < name.size() ? name[mark + 1] : 0;
      name = name.substr(0, mark);
    }
    if (spec.find('{') != std::string_view::npos) run_.fail("nested replacement fields are not supported.");
    Value value = lookup(name);
    if (conversion == 'r') value = run_.text(repr(run_, value));
    if (conversion == 's') value = run_.text(run_.to_text(value));
    if (!spec.empty() && !value.is_text() && !value.is_number())
      run_.fail("unsupported format string passed to " + std::string(value.type_name()) + ".__format__.");
    return format_value(run_, value, parse_spec(run_, spec));
  }

  Value lookup(std::string_view name) {
    const size_t end = std::min(name.find('.'), name.find('['));
    Value value = first(name.substr(0, end));
    name = end == std::string_view::npos ? std::string_view() : name.substr(end);
    while (!name.empty()) {
      const bool is_item = name[0] == '[';
      const size_t close = is_item ? name.find(']') : std::min(name.find('.', 1), name.find('[', 1));
      const std::string key(name.substr(1, close == std::string_view::npos ? close : close - 1));
      value = is_item && is_number(key) ? run_.item(value, Value(static_cast<int64_t>(std::stoll(key))))
              : is_item                 ? run_.item(value, Value(key))
                                        : run_.member(value, key);
      name = close == std::string_view::npos ? std::string_view() : name.substr(is_item ? close + 1 : close);
    }
    return value;
  }

  static bool is_number(const std::string& s) {
    return !s.empty() && s.size() < 10 && s.find_first_not_of("0123456789") == std::string::npos;
  }

  Value first(std::string_view name) {
    const std::string key(name);
    if (name.empty() || is_number(key)) {
      const Numbering now = name.empty() ? Numbering::automatic : Numbering::manual;
      if (numbering_ != Numbering::unknown && numbering_ != now)
        run_.fail("cannot switch between automatic and manual field numbering.");
      numbering_ = now;
      const size_t i = name.empty() ? next_++ : static_cast<size_t>(std::stoll(key));
      if (i >= arguments_.positional.size())
        run_.fail("Replacement index " + std::to_string(i) + " out of range for positional args tuple.");
      return arguments_.positional[i];
    }
    for (const auto& [known, value] : arguments_.named) {
      if (known == key) return value;
    }
    run_.fail("the format names '" + key + "', which is not among the arguments.");
  }

  Interpreter& run_;
  const Arguments& arguments_;
  enum class Numbering { unknown, automatic, manual };
  Numbering numbering_ = Numbering::unknown;
  size_t next_ = 0;
};

}  // namespace

std::string brace_format(Interpreter& run, const std::string& format, const Arguments& arguments) {
  return BraceFormatter(run, arguments).format(format);
}

std::string percent_format(Interpreter& run, const std::string& format, const std::vector<Value>& positional,
                           const Dict* named) {
  std::string out;
  size_t used = 0;
  const auto next = [&]() -> const Value& {
    if (used >= positional.size()) run.fail("not enough arguments for format string.");
    return positional[used++];
  };
  for (size_t i = 0; i < format.size(); ++i) {
    if (format[i] != '%') {
      out += format[i];
      continue;
    }
    if (++i == format.size()) run.fail("incomplete format.");
    if (format[i] == '%') {
      out += '%';
      continue;
    }
    const Value* value = nullptr;
    if (format[i] == '(') {
      const size_t close = format.find(')', i);
      if (named == nullptr) run.fail("format requires a mapping.");
      const std::string key = format.substr(i + 1, close == std::string::npos ? close : close - i - 1);
      value = named->find_text(key);
      if (close == std::string::npos || value == nullptr)
        run.fail("the format names " + python::repr(key) + ", which is not in the mapping.");
      i = close + 1;
    }
    Spec spec;
    for (; i < format.size() && std::string_view("-+ #0").find(format[i]) != std::string_view::npos; ++i) {
      if (format[i] == '-') spec.align = '<';
      if (format[i] == '+' || (format[i] == ' ' && spec.sign != '+')) spec.sign = format[i];
      if (format[i] == '#') spec.alternate = true;
      if (format[i] == '0' && spec.align == 0) {
        spec.fill = "0";
        spec.align = '=';
      }
    }
    if (spec.align == '<') spec.fill = " ";
    std::string_view rest = std::string_view(format).substr(i);
    spec.width = digits(run, rest);
    if (!rest.empty() && rest[0] == '.') {
      rest.remove_prefix(1);
      spec.precision = digits(run, rest);
    }
    i = format.size() - rest.size();
    if (i >= format.size()) run.fail("incomplete format.");
    if (value == nullptr) value = &next();
    char type = format[i];
    if (type == 's' || type == 'r') {
      if (spec.align == 0 || spec.align == '=') spec.align = '>';
      spec.fill = " ";
      spec.type = 's';
      out += format_value(run, run.text(type == 'r' ? repr(run, *value) : run.to_text(*value)), spec);
    } else if (type == 'c') {
      std::string one = value->is_text() ? value->text() : "";
      if (value->is_integer() && value->integer() >= 0 && value->integer() < 0xD800)
        utf8::append(one, static_cast<char32_t>(value->integer()));
      if (python::length(one) != 1)
        run.fail("%c requires an int in the range of characters or a single character.");
      if (spec.align == 0) spec.align = '>';
      out += format_value(run, run.text(one), spec);
    } else if (std::string_view("diuxXoeEfFgG").find(type) != std::string_view::npos) {
      if (!value->is_number())
        run.fail(std::string("%") + type + " format: a real number is required, not " +
                 std::string(value->type_name()) + ".");
      if (value->is_float() && std::string_view("xXo").find(type) != std::string_view::npos)
        run.fail(std::string("%") + type + " format: an integer is required, not float.");
      if (type == 'i' || type == 'u') type = 'd';
      spec.type = type;
      const bool whole = std::string_view("dxXo").find(type) != std::string_view::npos;
      if (whole && value->is_float() && !(std::fabs(value->number()) < 9e18))
        run.fail("the number is beyond 64 bits.");
      const bool from_float = whole && value->is_float();
      if (whole) spec.precision = -1;
      out += format_value(run,
                          from_float ? Value(static_cast<int64_t>(value->number()))
                          : whole    ? Value(value->integer())
                                     : Value(value->number()),
                          spec);
    } else {
      run.fail(std::string("unsupported format character '") + type + "'.");
    }
    if (out.size() > run.memory_left()) run.fail("the template makes too much data.");
  }
  if (named == nullptr && used < positional.size())
    run.fail("not all arguments converted during string formatting.");
  return out;
}

}  // namespace penstock::jinja
