#include "runtime/requests/text/template/text_methods.h"

#include <algorithm>
#include <unordered_map>

#include "runtime/requests/text/template/arguments.h"
#include "runtime/requests/text/template/library.h"
#include "runtime/requests/text/template/python_text.h"
#include "runtime/requests/text/utf8.h"

namespace penstock::jinja {
namespace {

using Method = Value (*)(Interpreter&, const std::string&, const Arguments&);

std::string spaces(Interpreter& run, int64_t n, const std::string& fill) {
  if (python::length(fill) != 1) run.fail("The fill character must be exactly one character long.");
  if (n <= 0) return {};
  if (static_cast<uint64_t>(n) > run.memory_left() / fill.size())
    run.fail("the template makes too much data.");
  std::string out;
  for (int64_t i = 0; i < n; ++i) out += fill;
  return out;
}

Value texts(Interpreter& run, std::vector<std::string> parts, Sequence::Kind kind = Sequence::Kind::list) {
  std::vector<Value> out;
  out.reserve(parts.size());
  for (std::string& part : parts) out.push_back(run.text(std::move(part)));
  return run.list(std::move(out), kind);
}

/// The part of `s` that the optional arguments start and end choose, with its offset in bytes.
struct Window {
  std::string_view text;
  size_t offset;
  bool valid;  // false: start lies behind the end
};
Window window(const std::string& s, const Bound& a, size_t start_argument) {
  if (a.unless_none(start_argument) == nullptr && a.unless_none(start_argument + 1) == nullptr)
    return {s, 0, true};
  const auto size = static_cast<int64_t>(python::length(s));
  const auto bound = [&](size_t i, int64_t otherwise) {
    const int64_t at = a.unless_none(i) != nullptr ? a.integer(i, 0) : otherwise;
    return at < 0 ? std::max<int64_t>(at + size, 0) : at;
  };
  const int64_t start = bound(start_argument, 0);
  const int64_t stop = std::min(bound(start_argument + 1, size), size);
  if (start > stop) return {{}, 0, false};
  const size_t first = python::offset(s, static_cast<size_t>(start));
  const size_t last = python::offset(s, static_cast<size_t>(stop));
  return {std::string_view(s).substr(first, last - first), first, true};
}

Value search(Interpreter& run, const std::string& s, const Arguments& arguments, const char* name,
             bool from_right, bool must) {
  const Bound a(run, name, arguments, {"sub", "start", "end"}, 1);
  const std::string& what = a.text(0);
  const Window w = window(s, a, 1);
  const size_t at = !w.valid     ? std::string_view::npos
                    : from_right ? python::rfind(w.text, what)
                                 : python::find(w.text, what);
  if (at != std::string_view::npos)
    return static_cast<int64_t>(python::length(std::string_view(s).substr(0, w.offset + at)));
  if (must) run.fail("substring not found.");
  return int64_t{-1};
}

/// startswith and endswith take one string or a tuple of them.
template <typename F>
Value affix(Interpreter& run, const std::string& s, const Arguments& arguments, const char* name, F&& fits) {
  const Bound a(run, name, arguments, {"prefix", "start", "end"}, 1);
  const Window w = window(s, a, 1);
  const auto one = [&](const Value& v) {
    if (!v.is_text())
      run.fail(std::string(name) + " first arg must be str or a tuple of str, not " +
               std::string(v.type_name()) + ".");
    return w.valid && fits(w.text, v.text());
  };
  const Sequence* tuple = a[0].sequence();
  if (tuple == nullptr || tuple->kind != Sequence::Kind::tuple) return one(a[0]);
  return std::any_of(tuple->items.begin(), tuple->items.end(), one);
}

template <typename F>
Value stripped(Interpreter& run, const std::string& s, const Arguments& arguments, const char* name,
               F&& strip) {
  const Bound a(run, name, arguments, {"chars"});
  const python::Strip characters = a.unless_none(0) != nullptr ? python::Strip(a.text(0)) : std::nullopt;
  if (characters) run.work(s.size() * std::min<size_t>(characters->size(), 64));
  return run.text(std::string(strip(s, characters)));
}

template <typename F>
Value cut(Interpreter& run, const std::string& s, const Arguments& arguments, const char* name, F&& split) {
  const Bound a(run, name, arguments, {"sep", "maxsplit"});
  const python::Strip separator = a.unless_none(0) != nullptr ? python::Strip(a.text(0)) : std::nullopt;
  if (separator && separator->empty()) run.fail("empty separator.");
  return texts(run, split(s, separator, a.integer(1, -1)));
}

Value partition(Interpreter& run, const std::string& s, const Arguments& arguments, bool from_right) {
  const Bound a(run, "partition", arguments, {"sep"}, 1);
  const std::string& separator = a.text(0);
  if (separator.empty()) run.fail("empty separator.");
  const size_t at = from_right ? python::rfind(s, separator) : python::find(s, separator);
  std::vector<std::string> parts{s, "", ""};
  if (at != std::string::npos) {
    parts = {s.substr(0, at), separator, s.substr(at + separator.size())};
  } else if (from_right) {
    parts = {"", "", s};
  }
  return texts(run, std::move(parts), Sequence::Kind::tuple);
}

/// True if there is a character and `all` holds for each.
template <typename F>
Value every(const std::string& s, F&& holds) {
  for (const char* p = s.data(); p != s.data() + s.size();) {
    if (!holds(utf8::next(p))) return false;
  }
  return !s.empty();
}

/// islower and isupper: some letter has the case and none the other.
template <typename F, typename G>
Value cased(const std::string& s, F&& wanted, G&& other) {
  bool any = false;
  for (const char* p = s.data(); p != s.data() + s.size();) {
    const char32_t c = utf8::next(p);
    if (other(c)) return false;
    any |= wanted(c);
  }
  return any;
}

Value is_title(Interpreter& /*run*/, const std::string& s, const Arguments& /*arguments*/) {
  bool inside = false;
  bool any = false;
  for (const char* p = s.data(); p != s.data() + s.size();) {
    const char32_t c = utf8::next(p);
    if (python::is_upper(c)) {
      if (inside) return false;
      inside = any = true;
    } else if (python::is_lower(c)) {
      if (!inside) return false;
    } else {
      inside = false;
    }
  }
  return any;
}

Value join(Interpreter& run, const std::string& s, const Arguments& arguments) {
  const Bound a(run, "join", arguments, {"iterable"}, 1);
  std::string out;
  size_t i = 0;
  for (const Value& item : run.iterate(a[0])) {
    if (!item.is_text()) {
      run.fail("sequence item " + std::to_string(i) + ": expected str instance, " +
               std::string(item.type_name()) + " found.");
    }
    if (i++ > 0) out += s;
    out += item.text();
    if (out.size() > run.memory_left()) run.fail("the template makes too much data.");
  }
  return run.text(std::move(out));
}

Value replace(Interpreter& run, const std::string& s, const Arguments& arguments) {
  const Bound a(run, "replace", arguments, {"old", "new", "count"}, 2);
  std::optional<std::string> out =
      python::replace(s, a.text(0), a.text(1), a.integer(2, -1), run.memory_left());
  if (!out) run.fail("the template makes too much data.");
  return run.text(*std::move(out));
}

Value justified(Interpreter& run, const std::string& s, const Arguments& arguments, const char* name,
                bool left) {
  const Bound a(run, name, arguments, {"width", "fillchar"}, 1);
  const std::string fill =
      spaces(run, a.integer(0, 0) - static_cast<int64_t>(python::length(s)), a.text(1, " "));
  return run.text(left ? s + fill : fill + s);
}

Value zfill(Interpreter& run, const std::string& s, const Arguments& arguments) {
  const Bound a(run, "zfill", arguments, {"width"}, 1);
  const std::string zeros = spaces(run, a.integer(0, 0) - static_cast<int64_t>(python::length(s)), "0");
  const bool has_sign = !s.empty() && (s[0] == '-' || s[0] == '+');
  return run.text(has_sign ? s[0] + zeros + s.substr(1) : zeros + s);
}

Value expandtabs(Interpreter& run, const std::string& s, const Arguments& arguments) {
  const Bound a(run, "expandtabs", arguments, {"tabsize"});
  const int64_t size = a.integer(0, 8);
  std::string out;
  int64_t column = 0;
  for (size_t at = 0; at < s.size(); at += utf8::length(s[at])) {
    if (s[at] == '\t') {
      const int64_t n = size > 0 ? size - column % size : 0;
      out += spaces(run, n, " ");
      column += n;
      if (out.size() > run.memory_left()) run.fail("the template makes too much data.");
      continue;
    }
    column = s[at] == '\n' || s[at] == '\r' ? 0 : column + 1;
    out += s.substr(at, utf8::length(s[at]));
  }
  return run.text(std::move(out));
}

Value remove_affix(Interpreter& run, const std::string& s, const Arguments& arguments, const char* name,
                   bool front) {
  const Bound a(run, name, arguments, {"affix"}, 1);
  const std::string& affix = a.text(0);
  if (front) return run.text(s.starts_with(affix) ? s.substr(affix.size()) : s);
  return run.text(s.ends_with(affix) ? s.substr(0, s.size() - affix.size()) : s);
}

Value splitlines(Interpreter& run, const std::string& s, const Arguments& arguments) {
  const Bound a(run, "splitlines", arguments, {"keepends"});
  return texts(run, python::splitlines(s, a.truth(0, false)));
}

Value count(Interpreter& run, const std::string& s, const Arguments& arguments) {
  const Bound a(run, "count", arguments, {"sub", "start", "end"}, 1);
  const Window w = window(s, a, 1);
  return w.valid ? static_cast<int64_t>(python::count(w.text, a.text(0))) : int64_t{0};
}

template <std::string (*F)(std::string_view)>
Value mapped(Interpreter& run, const std::string& s, const Arguments& arguments) {
  const Bound none(run, "the method", arguments, {});
  return run.text(F(s));
}

// NOLINTNEXTLINE(readability-function-size): a table
const std::unordered_map<std::string_view, Method>& methods() {
  using I = Interpreter;
  using S = const std::string;
  using A = const Arguments;
  static const std::unordered_map<std::string_view, Method> table{
      {"capitalize", mapped<python::capitalize>},
      {"casefold", mapped<python::lower>},
      {"center",
       [](I& r, S& s, A& a) {
         const Bound b(r, "center", a, {"width", "fillchar"}, 1);
         return r.text(centered(r, s, b.integer(0, 0), b.text(1, " ")));
       }},
      {"count", count},
      {"endswith",
       [](I& r, S& s, A& a) {
         return affix(r, s, a, "endswith", [](auto t, const auto& x) { return t.ends_with(x); });
       }},
      {"expandtabs", expandtabs},
      {"find", [](I& r, S& s, A& a) { return search(r, s, a, "find", false, false); }},
      {"format", [](I& r, S& s, A& a) { return r.text(brace_format(r, s, a)); }},
      {"index", [](I& r, S& s, A& a) { return search(r, s, a, "index", false, true); }},
      {"isalnum",
       [](I&, S& s, A&) {
         return every(s, [](char32_t c) { return python::is_letter(c) || python::is_numeric(c); });
       }},
      {"isalpha", [](I&, S& s, A&) { return every(s, python::is_letter); }},
      {"isascii",
       [](I&, S& s, A&) {
         return Value(s.empty() || every(s, [](char32_t c) { return c < 0x80; }).boolean());
       }},
      {"isdecimal", [](I&, S& s, A&) { return every(s, python::is_decimal); }},
      {"isdigit", [](I&, S& s, A&) { return every(s, python::is_digit); }},
      {"islower", [](I&, S& s, A&) { return cased(s, python::is_lower, python::is_upper); }},
      {"isnumeric", [](I&, S& s, A&) { return every(s, python::is_numeric); }},
      {"isspace", [](I&, S& s, A&) { return every(s, python::is_space); }},
      {"istitle", is_title},
      {"isupper", [](I&, S& s, A&) { return cased(s, python::is_upper, python::is_lower); }},
      {"join", join},
      {"ljust", [](I& r, S& s, A& a) { return justified(r, s, a, "ljust", true); }},
      {"lower", mapped<python::lower>},
      {"lstrip", [](I& r, S& s, A& a) { return stripped(r, s, a, "lstrip", python::strip_left); }},
      {"partition", [](I& r, S& s, A& a) { return partition(r, s, a, false); }},
      {"removeprefix", [](I& r, S& s, A& a) { return remove_affix(r, s, a, "removeprefix", true); }},
      {"removesuffix", [](I& r, S& s, A& a) { return remove_affix(r, s, a, "removesuffix", false); }},
      {"replace", replace},
      {"rfind", [](I& r, S& s, A& a) { return search(r, s, a, "rfind", true, false); }},
      {"rindex", [](I& r, S& s, A& a) { return search(r, s, a, "rindex", true, true); }},
      {"rjust", [](I& r, S& s, A& a) { return justified(r, s, a, "rjust", false); }},
      {"rpartition", [](I& r, S& s, A& a) { return partition(r, s, a, true); }},
      {"rsplit", [](I& r, S& s, A& a) { return cut(r, s, a, "rsplit", python::rsplit); }},
      {"rstrip", [](I& r, S& s, A& a) { return stripped(r, s, a, "rstrip", python::strip_right); }},
      {"split", [](I& r, S& s, A& a) { return cut(r, s, a, "split", python::split); }},
      {"splitlines", splitlines},
      {"startswith",
       [](I& r, S& s, A& a) {
         return affix(r, s, a, "startswith", [](auto t, const auto& x) { return t.starts_with(x); });
       }},
      {"strip", [](I& r, S& s, A& a) { return stripped(r, s, a, "strip", python::strip); }},
      {"swapcase", mapped<python::swapcase>},
      {"title", mapped<python::title>},
      {"upper", mapped<python::upper>},
      {"zfill", zfill},
  };
  return table;
}

}  // namespace

bool has_text_method(const std::string& name) {
  return methods().contains(name);
}

Value call_text_method(Interpreter& run, const std::string& subject, const std::string& name,
                       const Arguments& arguments) {
  run.work(subject.size());
  return methods().at(name)(run, subject, arguments);
}

std::string centered(Interpreter& run, const std::string& s, int64_t width, const std::string& fill) {
  const auto size = static_cast<int64_t>(python::length(s));
  if (width <= size) return s;
  const int64_t space = width - size;
  const int64_t left = space / 2 + (space & width & 1);
  return spaces(run, left, fill) + s + spaces(run, space - left, fill);
}

}  // namespace penstock::jinja
