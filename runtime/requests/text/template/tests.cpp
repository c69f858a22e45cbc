// What stands behind `is`.
#include <cmath>
#include <unordered_map>

#include "runtime/requests/text/template/arguments.h"
#include "runtime/requests/text/template/library.h"
#include "runtime/requests/text/template/python_text.h"

namespace penstock::jinja {
namespace {

using Test = bool (*)(Interpreter&, const Value&, const Arguments&);

const Value& other(const Interpreter& run, const Arguments& arguments) {
  if (arguments.positional.size() != 1 || !arguments.named.empty()) run.fail("the test takes one argument.");
  return arguments.positional[0];
}

bool divides(Interpreter& run, const Value& value, const Value& by) {
  run.require_defined(value);
  if (!value.is_number() || !by.is_number())
    run.fail("the test expects a number, found " + std::string((value.is_number() ? by : value).type_name()) +
             ".");
  if (by.number() == 0) run.fail("modulo by zero.");
  if (!value.is_integer() || !by.is_integer()) return std::fmod(value.number(), by.number()) == 0;
  return by.integer() == -1 || value.integer() % by.integer() == 0;
}

bool is_truly(const Value& v, bool wanted) {
  return v.is_bool() && v.boolean() == wanted;
}

bool has_length_and_items(const Value& v) {
  const Sequence* s = v.sequence();
  return v.is_text() || v.dict() != nullptr || v.is_undefined() ||
         (s != nullptr && s->kind != Sequence::Kind::generator && s->kind != Sequence::Kind::view);
}

bool all_cased(Interpreter& run, const Value& v, bool upper) {
  return call_method(run, run.text(run.to_text(v)), upper ? "isupper" : "islower", {}).boolean();
}

const std::unordered_map<std::string_view, Test>& tests() {
  using I = Interpreter;
  using V = const Value;
  using A = const Arguments;
  static constexpr Test equal = [](I& r, V& v, A& a) { return r.equal(v, other(r, a)); };
  static constexpr Test unequal = [](I& r, V& v, A& a) { return !r.equal(v, other(r, a)); };
  static constexpr Test less = [](I& r, V& v, A& a) { return r.less(v, other(r, a)); };
  static constexpr Test greater = [](I& r, V& v, A& a) { return r.less(other(r, a), v); };
  static constexpr Test at_most = [](I& r, V& v, A& a) {
    return r.less(v, other(r, a)) || r.equal(v, other(r, a));
  };
  static constexpr Test at_least = [](I& r, V& v, A& a) {
    return r.less(other(r, a), v) || r.equal(v, other(r, a));
  };
  static const std::unordered_map<std::string_view, Test> table{
      {"boolean", [](I&, V& v, A&) { return v.is_bool(); }},
      {"callable", [](I&, V& v, A&) { return v.object() != nullptr && v.object()->callable(); }},
      {"defined", [](I&, V& v, A&) { return !v.is_undefined(); }},
      {"divisibleby",
       [](I& r, V& v, A& a) { return divides(r, v, Bound(r, "divisibleby", a, {"num"}, 1)[0]); }},
      {"eq", equal},
      {"equalto", equal},
      {"==", equal},
      {"escaped", [](I&, V&, A&) { return false; }},
      {"even", [](I& r, V& v, A&) { return divides(r, v, int64_t{2}); }},
      {"false", [](I&, V& v, A&) { return is_truly(v, false); }},
      {"float", [](I&, V& v, A&) { return v.is_float(); }},
      {"ge", at_least},
      {">=", at_least},
      {"gt", greater},
      {"greaterthan", greater},
      {">", greater},
      {"in", [](I& r, V& v, A& a) { return r.contains(other(r, a), v); }},
      {"integer", [](I&, V& v, A&) { return v.is_integer() && !v.is_bool(); }},
      {"iterable",
       [](I&, V& v, A&) {
         return v.is_text() || v.sequence() != nullptr || v.dict() != nullptr || v.is_undefined();
       }},
      {"le", at_most},
      {"<=", at_most},
      {"lower", [](I& r, V& v, A&) { return all_cased(r, v, false); }},
      {"lt", less},
      {"lessthan", less},
      {"<", less},
      {"mapping", [](I&, V& v, A&) { return v.dict() != nullptr; }},
      {"ne", unequal},
      {"!=", unequal},
      {"none", [](I&, V& v, A&) { return v.is_none(); }},
      {"number", [](I&, V& v, A&) { return v.is_number(); }},
      {"odd",
       [](I& r, V& v, A&) {
         return v.is_float() ? std::fabs(std::fmod(v.number(), 2)) == 1 : !divides(r, v, int64_t{2});
       }},
      {"sameas", [](I& r, V& v, A& a) { return v.same_as(other(r, a)); }},
      {"sequence", [](I&, V& v, A&) { return has_length_and_items(v); }},
      {"string", [](I&, V& v, A&) { return v.is_text(); }},
      {"true", [](I&, V& v, A&) { return is_truly(v, true); }},
      {"undefined", [](I&, V& v, A&) { return v.is_undefined(); }},
      {"upper", [](I& r, V& v, A&) { return all_cased(r, v, true); }},
  };
  return table;
}

}  // namespace

bool Interpreter::apply_test(const std::string& name, const Value& subject, const Arguments& arguments) {
  work(200);
  const auto found = tests().find(name);
  if (found == tests().end()) fail("No test named '" + name + "'.");
  return found->second(*this, subject, arguments);
}

}  // namespace penstock::jinja
