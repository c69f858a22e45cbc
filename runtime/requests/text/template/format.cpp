#include "runtime/requests/text/template/format.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstdio>

#include "runtime/requests/text/template/python_text.h"
#include "runtime/requests/text/utf8.h"

namespace penstock::jinja {
namespace {

void append_json_text(std::string& out, std::string_view text, bool ensure_ascii) {
  const auto escape = [&](char32_t unit) {
    char buffer[16];
    std::snprintf(buffer, sizeof(buffer), "\\u%04x", static_cast<unsigned>(unit));
    out += buffer;
  };
  out += '"';
  for (const char* p = text.data(); p != text.data() + text.size();) {
    const char32_t c = utf8::next(p);
    switch (c) {
      case '"':
        out += "\\\"";
        break;
      case '\\':
        out += "\\\\";
        break;
      case '\n':
        out += "\\n";
        break;
      case '\r':
        out += "\\r";
        break;
      case '\t':
        out += "\\t";
        break;
      case '\b':
        out += "\\b";
        break;
      case '\f':
        out += "\\f";
        break;
      default:
        if (c < 0x20 || (ensure_ascii && c >= 0x7F && c < 0x10000)) {
          escape(c);
        } else if (ensure_ascii && c >= 0x10000) {
          escape(0xD800 + ((c - 0x10000) >> 10));
          escape(0xDC00 + ((c - 0x10000) & 0x3FF));
        } else {
          utf8::append(out, c);
        }
    }
  }
  out += '"';
}

class JsonWriter {
 public:
  JsonWriter(Interpreter& run, const JsonStyle& style) : run_(run), style_(style) {}

  void write(const Value& value, size_t level) {
    run_.work(100);
    if (value.is_text()) {
      append_json_text(out, value.text(), style_.ensure_ascii);
    } else if (const Sequence* s = value.sequence();
               s != nullptr && (s->kind == Sequence::Kind::list || s->kind == Sequence::Kind::tuple)) {
      between('[', ']', s->items.size(), level, [&](size_t i) { write(s->items[i], level + 1); });
    } else if (const Dict* d = value.dict()) {
      std::vector<const Dict::Item*> items;
      for (const auto& item : d->items()) items.push_back(&item);
      if (style_.sort_keys) {
        std::stable_sort(items.begin(), items.end(),
                         [&](const auto* a, const auto* b) { return run_.less(a->first, b->first); });
      }
      between('{', '}', items.size(), level, [&](size_t i) {
        append_json_text(out, key(items[i]->first), style_.ensure_ascii);
        out += style_.key_separator;
        write(items[i]->second, level + 1);
      });
    } else if (value.is_none() || value.is_number()) {
      out += scalar(value);
    } else {
      run_.fail("Object of type " + std::string(value.type_name()) + " is not JSON serializable.");
    }
    if (out.size() > run_.memory_left()) run_.fail("the template makes too much data.");
  }

  std::string out;

 private:
  static std::string scalar(const Value& value) {
    if (value.is_none()) return "null";
    if (value.is_bool()) return value.boolean() ? "true" : "false";
    if (value.is_integer()) return std::to_string(value.integer());
    const double d = value.number();
    if (std::isnan(d)) return "NaN";
    if (std::isinf(d)) return d > 0 ? "Infinity" : "-Infinity";
    return float_text(d);
  }

  std::string key(const Value& value) {
    if (value.is_text()) return value.text();
    if (!value.is_none() && !value.is_number()) {
      run_.fail("keys must be str, int, float, bool or None, not " + std::string(value.type_name()) + ".");
    }
    return scalar(value);
  }

  template <typename WriteItem>
  void between(char open, char close, size_t size, size_t level, WriteItem&& write_item) {
    out += open;
    for (size_t i = 0; i < size; ++i) {
      if (i > 0) out += style_.item_separator;
      new_line(level + 1);
      write_item(i);
    }
    if (size > 0) new_line(level);
    out += close;
  }

  void new_line(size_t level) {
    if (!style_.indent) return;
    run_.work(level * style_.indent->size() + 1);
    out += '\n';
    for (size_t i = 0; i < level; ++i) out += *style_.indent;
  }

  Interpreter& run_;
  const JsonStyle& style_;
};

void append_repr(Interpreter& run, const Value& value, std::string& out) {
  run.work(100);
  const auto items = [&](const std::vector<Value>& values) {
    for (size_t i = 0; i < values.size(); ++i) {
      if (i > 0) out += ", ";
      append_repr(run, values[i], out);
      if (out.size() > run.memory_left()) run.fail("the template makes too much data.");
    }
  };
  if (value.is_text()) {
    out += python::repr(value.text());
  } else if (const Sequence* s = value.sequence()) {
    switch (s->kind) {
      case Sequence::Kind::tuple:
        out += '(';
        items(s->items);
        out += s->items.size() == 1 ? ",)" : ")";
        break;
      case Sequence::Kind::generator:
        out += "<generator object>";
        break;
      case Sequence::Kind::range: {
        const int64_t first = s->items.empty() ? 0 : s->items.front().integer();
        out += "range(" + std::to_string(first) + ", " +
               std::to_string(first + static_cast<int64_t>(s->items.size())) + ")";
        break;
      }
      default:
        out += '[';
        items(s->items);
        out += ']';
    }
  } else if (const Dict* d = value.dict()) {
    out += '{';
    for (size_t i = 0; i < d->items().size(); ++i) {
      if (i > 0) out += ", ";
      append_repr(run, d->items()[i].first, out);
      out += ": ";
      append_repr(run, d->items()[i].second, out);
      if (out.size() > run.memory_left()) run.fail("the template makes too much data.");
    }
    out += '}';
  } else if (value.is_undefined()) {
    out += "Undefined";
  } else if (const Object* object = value.object()) {
    out += "<" + std::string(object->type_name()) + ">";
  } else {
    out += run.to_text(value);
  }
}

}  // namespace

std::string float_text(double value) {
  if (std::isnan(value)) return "nan";
  if (std::isinf(value)) return value > 0 ? "inf" : "-inf";
  char buffer[40];
  const auto scientific =
      std::to_chars(buffer, buffer + sizeof(buffer), value, std::chars_format::scientific);
  const std::string_view text(buffer, static_cast<size_t>(scientific.ptr - buffer));
  const int exponent = std::atoi(std::string(text.substr(text.find('e') + 1)).c_str());
  if (exponent < -4 || exponent >= 16) return std::string(text);
  const auto fixed = std::to_chars(buffer, buffer + sizeof(buffer), value, std::chars_format::fixed);
  std::string out(buffer, fixed.ptr);
  return out.find('.') == std::string::npos ? out + ".0" : out;
}

std::string repr(Interpreter& run, const Value& value) {
  std::string out;
  append_repr(run, value, out);
  run.charge(out.size());
  return out;
}

std::string to_json(Interpreter& run, const Value& value, const JsonStyle& style) {
  JsonWriter writer(run, style);
  writer.write(value, 0);
  run.charge(writer.out.size());
  return std::move(writer.out);
}

}  // namespace penstock::jinja
