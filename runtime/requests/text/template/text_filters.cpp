// Filters that make text.
#include <algorithm>
#include <unordered_map>

#include "runtime/requests/text/template/arguments.h"
#include "runtime/requests/text/template/format.h"
#include "runtime/requests/text/template/library.h"
#include "runtime/requests/text/template/python_text.h"
#include "runtime/requests/text/template/text_methods.h"
#include "runtime/requests/text/utf8.h"

namespace penstock::jinja {
namespace {

using Filter = Value (*)(Interpreter&, const Value&, const Arguments&);

template <std::string (*F)(std::string_view)>
Value mapped(Interpreter& run, const Value& subject, const Arguments& arguments) {
  const Bound none(run, "the filter", arguments, {});
  return run.text(F(run.to_text(subject)));
}

Value trim(Interpreter& run, const Value& subject, const Arguments& arguments) {
  const Bound a(run, "trim", arguments, {"chars"});
  const std::string s = run.to_text(subject);
  const python::Strip characters = a.unless_none(0) != nullptr ? python::Strip(a.text(0)) : std::nullopt;
  if (characters) run.work(s.size() * std::min<size_t>(characters->size(), 64));
  return run.text(std::string(python::strip(s, characters)));
}

Value replace(Interpreter& run, const Value& subject, const Arguments& arguments) {
  const Bound a(run, "replace", arguments, {"old", "new", "count"}, 2);
  const int64_t limit = a.unless_none(2) != nullptr ? a.integer(2, -1) : -1;
  std::optional<std::string> out =
      python::replace(run.to_text(subject), run.to_text(a[0]), run.to_text(a[1]), limit, run.memory_left());
  if (!out) run.fail("the template makes too much data.");
  return run.text(*std::move(out));
}

const std::string& required_text(const Interpreter& run, const char* filter, const Value& subject) {
  if (!subject.is_text()) {
    run.require_defined(subject);
    run.fail(std::string(filter) + " expects a string, found " + std::string(subject.type_name()) + ".");
  }
  return subject.text();
}

Value indent(Interpreter& run, const Value& subject, const Arguments& arguments) {
  const Bound a(run, "indent", arguments, {"width", "first", "blank"});
  const bool first = a.truth(1, false);
  const bool blank = a.truth(2, false);
  std::string indention = "    ";
  if (a.has(0))
    indention = a[0].is_text() ? a[0].text() : run.to_text(run.multiply(Value(" "), Value(a.integer(0, 4))));
  // Jinja appends a newline so that a trailing empty line is kept.
  const std::vector<std::string> lines =
      python::splitlines(required_text(run, "indent", subject) + "\n", false);
  if (lines.size() > run.memory_left() / (indention.size() + 1))
    run.fail("the template makes too much data.");
  std::string out = first ? indention : "";
  for (size_t i = 0; i < lines.size(); ++i) {
    if (i > 0) {
      out += '\n';
      if (blank || !lines[i].empty()) out += indention;
    }
    out += lines[i];
  }
  return run.text(std::move(out));
}

Value tojson(Interpreter& run, const Value& subject, const Arguments& arguments) {
  const Bound a(run, "tojson", arguments, {"ensure_ascii", "indent", "separators", "sort_keys"});
  JsonStyle style;
  style.ensure_ascii = a.truth(0, false);
  style.sort_keys = a.truth(3, false);
  if (const Value* in = a.unless_none(1)) {
    style.indent = in->is_text() ? in->text() : run.to_text(run.multiply(Value(" "), Value(a.integer(1, 0))));
    style.item_separator = ",";
  }
  if (const Value* separators = a.unless_none(2)) {
    const std::vector<Value> two = run.iterate(*separators);
    if (two.size() != 2 || !two[0].is_text() || !two[1].is_text())
      run.fail("tojson: separators must be two strings.");
    style.item_separator = two[0].text();
    style.key_separator = two[1].text();
  }
  return run.text(to_json(run, subject, style));
}

Value escape(Interpreter& run, const Value& subject, const Arguments& arguments) {
  const Bound none(run, "escape", arguments, {});
  if (subject.is_markup()) return subject;
  std::string out = python::escape_html(run.to_text(subject));
  run.charge(out.size());
  return Value::markup(std::move(out));
}

Value safe(Interpreter& run, const Value& subject, const Arguments& arguments) {
  const Bound none(run, "safe", arguments, {});
  std::string out = run.to_text(subject);
  run.charge(out.size());
  return Value::markup(std::move(out));
}

/// Upper case behind white space, dashes and opening brackets; Jinja's rule, which is not str.title's.
Value title(Interpreter& run, const Value& subject, const Arguments& arguments) {
  const Bound none(run, "title", arguments, {});
  const std::string s = run.to_text(subject);
  std::string out;
  std::string word;
  const auto flush = [&] {
    if (word.empty()) return;
    const size_t first = utf8::length(word[0]);
    out += python::upper(std::string_view(word).substr(0, first)) +
           python::lower(std::string_view(word).substr(first));
    word.clear();
  };
  for (const char* p = s.data(); p != s.data() + s.size();) {
    const char* begin = p;
    const char32_t c = utf8::next(p);
    if (c == '-' || c == '(' || c == '{' || c == '[' || c == '<' || python::is_space(c)) {
      flush();
      out.append(begin, p);
    } else {
      word.append(begin, p);
    }
  }
  flush();
  return run.text(std::move(out));
}

Value truncate(Interpreter& run, const Value& subject, const Arguments& arguments) {
  const Bound a(run, "truncate", arguments, {"length", "killwords", "end", "leeway"});
  if (subject.is_undefined()) return subject;
  const std::string& s = required_text(run, "truncate", subject);
  const std::string end = a.text(2, "...");
  const int64_t length = a.integer(0, 255);
  const int64_t leeway = a.unless_none(3) != nullptr ? a.integer(3, 5) : 5;
  const auto end_length = static_cast<int64_t>(python::length(end));
  if (length < end_length)
    run.fail("truncate: expected length >= " + std::to_string(end_length) + ", got " +
             std::to_string(length) + ".");
  if (leeway < 0) run.fail("truncate: expected leeway >= 0, got " + std::to_string(leeway) + ".");
  if (static_cast<int64_t>(python::length(s)) - leeway <= length) return subject;
  std::string kept = s.substr(0, python::offset(s, static_cast<size_t>(length - end_length)));
  if (!a.truth(1, false)) kept = python::rsplit(kept, " ", 1)[0];
  return run.text(kept + end);
}

Value urlencode(Interpreter& run, const Value& subject, const Arguments& arguments) {
  const Bound none(run, "urlencode", arguments, {});
  const auto quote = [&](const Value& value, bool for_query) {
    std::string out;
    for (const char c : run.to_text(value)) {
      const auto b = static_cast<unsigned char>(c);
      const bool safe = (b >= '0' && b <= '9') || (b >= 'A' && b <= 'Z') || (b >= 'a' && b <= 'z') ||
                        c == '_' || c == '.' || c == '-' || c == '~' || (c == '/' && !for_query);
      if (safe) {
        out += c;
      } else if (c == ' ' && for_query) {
        out += '+';
      } else {
        constexpr char kHex[] = "0123456789ABCDEF";
        out += '%';
        out += kHex[b >> 4];
        out += kHex[b & 15];
      }
    }
    return out;
  };
  if (subject.is_text() || (subject.dict() == nullptr && subject.sequence() == nullptr))
    return run.text(quote(subject, false));
  std::vector<std::pair<Value, Value>> pairs;
  if (const Dict* d = subject.dict()) {
    pairs = d->items();
  } else {
    for (const Value& item : run.iterate(subject)) {
      const std::vector<Value> two = run.iterate(item);
      if (two.size() != 2) run.fail("urlencode expects pairs.");
      pairs.emplace_back(two[0], two[1]);
    }
  }
  std::string out;
  for (const auto& [key, value] : pairs)
    out += (out.empty() ? "" : "&") + quote(key, true) + "=" + quote(value, true);
  return run.text(std::move(out));
}

Value wordcount(Interpreter& run, const Value& subject, const Arguments& arguments) {
  const Bound none(run, "wordcount", arguments, {});
  const std::string s = run.to_text(subject);
  int64_t words = 0;
  bool inside = false;
  for (const char* p = s.data(); p != s.data() + s.size();) {
    const char32_t c = utf8::next(p);
    const bool is_word = c == '_' || python::is_letter(c) || python::is_numeric(c);
    words += is_word && !inside ? 1 : 0;
    inside = is_word;
  }
  return words;
}

Value format(Interpreter& run, const Value& subject, const Arguments& arguments) {
  if (!arguments.positional.empty() && !arguments.named.empty())
    run.fail("can't handle positional and keyword arguments at the same time.");
  Dict named;
  for (const auto& [name, value] : arguments.named) named.set(run.text(name), value);
  return run.text(percent_format(run, run.to_text(subject), arguments.positional,
                                 arguments.named.empty() ? nullptr : &named));
}

}  // namespace

std::optional<Value> text_filter(Interpreter& run, const std::string& name, const Value& subject,
                                 const Arguments& arguments) {
  using I = Interpreter;
  using V = const Value;
  using A = const Arguments;
  static const std::unordered_map<std::string_view, Filter> table{
      {"capitalize", mapped<python::capitalize>},
      {"center",
       [](I& r, V& v, A& a) {
         return r.text(centered(r, r.to_text(v), Bound(r, "center", a, {"width"}).integer(0, 80), " "));
       }},
      {"e", escape},
      {"escape", escape},
      {"forceescape", escape},
      {"format", format},
      {"indent", indent},
      {"lower", mapped<python::lower>},
      {"replace", replace},
      {"safe", safe},
      {"string", [](I& r, V& v, A&) { return r.text(r.to_text(v)); }},
      {"title", title},
      {"tojson", tojson},
      {"trim", trim},
      {"truncate", truncate},
      {"upper", mapped<python::upper>},
      {"urlencode", urlencode},
      {"wordcount", wordcount},
  };
  const auto found = table.find(name);
  if (found == table.end()) return std::nullopt;
  return found->second(run, subject, arguments);
}

}  // namespace penstock::jinja
