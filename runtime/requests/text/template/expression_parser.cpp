#include <charconv>
#include <cstdlib>

#include "runtime/requests/text/template/parser.h"

namespace penstock::jinja {
namespace {

using Kind = Expression::Kind;
using Nested = TokenStream::Nested;

constexpr int kMaxTreeDepth = 400;

}  // namespace

ExpressionPtr ExpressionParser::make(Kind kind, int line) const {
  auto e = std::make_unique<Expression>();
  e->kind = kind;
  e->line = line;
  return e;
}

ExpressionPtr ExpressionParser::with(Kind kind, int line, ExpressionPtr a, ExpressionPtr b) const {
  ExpressionPtr e = make(kind, line);
  adopt(*e, std::move(a));
  if (b) adopt(*e, std::move(b));
  return e;
}

void ExpressionParser::deepen(Expression& e, const Expression& child) {
  e.depth = std::max(e.depth, child.depth + 1);
  if (e.depth > kMaxTreeDepth)
    fail_at(e.line, "an expression has more than " + std::to_string(kMaxTreeDepth) + " operations in a row.");
}

void ExpressionParser::adopt(Expression& e, ExpressionPtr child) {
  if (child) deepen(e, *child);
  e.parts.push_back(std::move(child));
}

ExpressionPtr ExpressionParser::expression(bool with_condition) {
  const Nested nested(tokens_);
  return with_condition ? condition() : logical_or();
}

ExpressionPtr ExpressionParser::condition() {
  int line = tokens_.current().line;
  ExpressionPtr value = logical_or();
  while (tokens_.take_name("if")) {
    ExpressionPtr e = make(Kind::condition, line);
    adopt(*e, logical_or());
    adopt(*e, std::move(value));
    if (tokens_.take_name("else")) {
      const Nested nested(tokens_);
      adopt(*e, condition());
    } else {
      adopt(*e, nullptr);
    }
    value = std::move(e);
    line = tokens_.current().line;
  }
  return value;
}

ExpressionPtr ExpressionParser::logical_or() {
  ExpressionPtr left = logical_and();
  while (tokens_.is_name("or")) {
    const Nested nested(tokens_);
    const int line = tokens_.take().line;
    left = with(Kind::logical_or, line, std::move(left), logical_and());
  }
  return left;
}

ExpressionPtr ExpressionParser::logical_and() {
  ExpressionPtr left = logical_not();
  while (tokens_.is_name("and")) {
    const int line = tokens_.take().line;
    left = with(Kind::logical_and, line, std::move(left), logical_not());
  }
  return left;
}

ExpressionPtr ExpressionParser::logical_not() {
  if (!tokens_.is_name("not")) return compare();
  const Nested nested(tokens_);
  const int line = tokens_.take().line;
  return with(Kind::logical_not, line, logical_not());
}

ExpressionPtr ExpressionParser::compare() {
  ExpressionPtr first = sum();
  ExpressionPtr e;
  while (true) {
    const Token& token = tokens_.current();
    const int line = token.line;
    std::string op;
    if (token.kind == Token::Kind::op && (token.text == "==" || token.text == "!=" || token.text == "<" ||
                                          token.text == "<=" || token.text == ">" || token.text == ">=")) {
      op = tokens_.take().text;
    } else if (tokens_.take_name("in")) {
      op = "in";
    } else if (tokens_.is_name("not") && tokens_.after().kind == Token::Kind::name &&
               tokens_.after().text == "in") {
      tokens_.take();
      tokens_.take();
      op = "not in";
    } else {
      return e ? std::move(e) : std::move(first);
    }
    if (!e) e = with(Kind::compare, line, std::move(first));
    e->operators.push_back(op);
    adopt(*e, sum());
  }
}

ExpressionPtr ExpressionParser::sum() {
  ExpressionPtr left = concat();
  while (tokens_.is_op("+") || tokens_.is_op("-")) {
    const Token op = tokens_.take();
    left = with(Kind::binary, op.line, std::move(left), concat());
    left->operators.push_back(op.text);
  }
  return left;
}

ExpressionPtr ExpressionParser::concat() {
  ExpressionPtr first = product();
  if (!tokens_.is_op("~")) return first;
  ExpressionPtr e = with(Kind::concat, tokens_.current().line, std::move(first));
  while (tokens_.take_op("~")) adopt(*e, product());
  return e;
}

ExpressionPtr ExpressionParser::product() {
  ExpressionPtr left = power();
  while (tokens_.is_op("*") || tokens_.is_op("/") || tokens_.is_op("//") || tokens_.is_op("%")) {
    const Token op = tokens_.take();
    left = with(Kind::binary, op.line, std::move(left), power());
    left->operators.push_back(op.text);
  }
  return left;
}

ExpressionPtr ExpressionParser::power() {
  ExpressionPtr left = unary(true);
  while (tokens_.is_op("**")) {
    const int line = tokens_.take().line;
    left = with(Kind::binary, line, std::move(left), unary(true));
    left->operators.emplace_back("**");
  }
  return left;
}

ExpressionPtr ExpressionParser::unary(bool with_filter) {
  const Nested nested(tokens_);
  const int line = tokens_.current().line;
  ExpressionPtr e;
  if (tokens_.take_op("-")) {
    e = with(Kind::negate, line, unary(false));
  } else if (tokens_.take_op("+")) {
    e = with(Kind::plus, line, unary(false));
  } else {
    e = primary();
  }
  e = postfix(std::move(e));
  return with_filter ? filters_and_tests(std::move(e)) : std::move(e);
}

ExpressionPtr ExpressionParser::number() {
  const Token token = tokens_.take();
  ExpressionPtr e = make(Kind::constant, token.line);
  const char* begin = token.text.data();
  const char* end = begin + token.text.size();
  if (token.kind == Token::Kind::real) {
    e->value = Value(std::strtod(token.text.c_str(), nullptr));  // too large is infinity, as in Python
    return e;
  }
  int base = 10;
  if (token.text.size() > 2 && token.text[0] == '0' && token.text[1] > '9') {
    const char mark = static_cast<char>(token.text[1] | 0x20);
    base = mark == 'x' ? 16 : mark == 'o' ? 8 : 2;
    begin += 2;
  }
  int64_t value = 0;
  const auto [stop, error] = std::from_chars(begin, end, value, base);
  if (error != std::errc() || stop != end)
    fail_at(token.line, "the number " + token.text.substr(0, 40) + " is not an integer of 64 bits.");
  e->value = Value(value);
  return e;
}

ExpressionPtr ExpressionParser::primary() {
  const Token token = tokens_.current();
  switch (token.kind) {
    case Token::Kind::name: {
      tokens_.take();
      ExpressionPtr e = make(Kind::constant, token.line);
      if (token.text == "true" || token.text == "True") {
        e->value = Value(true);
      } else if (token.text == "false" || token.text == "False") {
        e->value = Value(false);
      } else if (token.text != "none" && token.text != "None") {
        e->kind = Kind::name;
        e->name = token.text;
      }
      return e;
    }
    case Token::Kind::string: {
      ExpressionPtr e = make(Kind::constant, token.line);
      std::string text;
      while (tokens_.current().kind == Token::Kind::string) text += tokens_.take().text;
      e->value = Value(std::move(text));
      return e;
    }
    case Token::Kind::integer:
    case Token::Kind::real:
      return number();
    case Token::Kind::op:
      break;
    default:
      tokens_.unexpected("an expression");
  }
  if (tokens_.take_op("(")) {
    ExpressionPtr e = tuple(true, nullptr, true);
    tokens_.expect_op(")");
    return e;
  }
  if (tokens_.take_op("[")) {
    ExpressionPtr e = make(Kind::list, token.line);
    while (!tokens_.is_op("]")) {
      if (!e->parts.empty()) tokens_.expect_op(",");
      if (tokens_.is_op("]")) break;
      adopt(*e, expression());
    }
    tokens_.expect_op("]");
    return e;
  }
  if (tokens_.take_op("{")) {
    ExpressionPtr e = make(Kind::dict, token.line);
    while (!tokens_.is_op("}")) {
      if (!e->parts.empty()) tokens_.expect_op(",");
      if (tokens_.is_op("}")) break;
      adopt(*e, expression());
      tokens_.expect_op(":");
      adopt(*e, expression());
    }
    tokens_.expect_op("}");
    return e;
  }
  tokens_.unexpected("an expression");
}

bool ExpressionParser::at_tuple_end(const char* end) const {
  const Token& t = tokens_.current();
  return t.kind == Token::Kind::variable_end || t.kind == Token::Kind::block_end || tokens_.is_op(")") ||
         (end != nullptr && tokens_.is_name(end));
}

ExpressionPtr ExpressionParser::tuple(bool with_condition, const char* end, bool in_brackets) {
  const int line = tokens_.current().line;
  std::vector<ExpressionPtr> parts;
  bool is_tuple = false;
  while (true) {
    if (!parts.empty()) tokens_.expect_op(",");
    if (at_tuple_end(end)) break;
    parts.push_back(expression(with_condition));
    if (!tokens_.is_op(",")) break;
    is_tuple = true;
  }
  if (!is_tuple && !parts.empty()) return std::move(parts.front());
  if (!is_tuple && !in_brackets) tokens_.unexpected("an expression");
  ExpressionPtr e = make(Kind::tuple, line);
  for (ExpressionPtr& part : parts) adopt(*e, std::move(part));
  return e;
}

ExpressionPtr ExpressionParser::target(const char* end, bool with_members) {
  const Nested nested(tokens_);
  const int line = tokens_.current().line;
  std::vector<ExpressionPtr> parts;
  bool is_tuple = false;
  while (true) {
    if (!parts.empty()) tokens_.expect_op(",");
    if (at_tuple_end(end)) break;
    if (tokens_.take_op("(")) {
      parts.push_back(target(nullptr, with_members));
      tokens_.expect_op(")");
    } else {
      ExpressionPtr e = make(Kind::name, tokens_.current().line);
      e->name = tokens_.expect_any_name();
      for (const char* taken : {"true", "True", "false", "False", "none", "None"}) {
        if (e->name == taken) fail_at(e->line, "'" + e->name + "' cannot be assigned to.");
      }
      if (with_members && tokens_.take_op(".")) {
        const int member_line = e->line;
        ExpressionPtr member = with(Kind::member, member_line, std::move(e));
        member->name = tokens_.expect_any_name();
        e = std::move(member);
      }
      parts.push_back(std::move(e));
    }
    if (!tokens_.is_op(",")) break;
    is_tuple = true;
  }
  if (parts.empty()) tokens_.unexpected("a name to assign to");
  if (!is_tuple) return std::move(parts.front());
  ExpressionPtr e = make(Kind::tuple, line);
  for (ExpressionPtr& part : parts) adopt(*e, std::move(part));
  return e;
}

ExpressionPtr ExpressionParser::postfix(ExpressionPtr e) {
  while (true) {
    if (tokens_.is_op(".") || tokens_.is_op("[")) {
      e = subscript(std::move(e));
    } else if (tokens_.is_op("(")) {
      e = call(std::move(e));
    } else {
      return e;
    }
  }
}

ExpressionPtr ExpressionParser::filters_and_tests(ExpressionPtr e) {
  while (true) {
    if (tokens_.is_op("|")) {
      e = filters(std::move(e), false);
    } else if (tokens_.is_name("is")) {
      e = test(std::move(e));
    } else if (tokens_.is_op("(")) {
      e = call(std::move(e));
    } else {
      return e;
    }
  }
}

ExpressionPtr ExpressionParser::subscript(ExpressionPtr subject) {
  const Token token = tokens_.take();
  if (token.text == ".") {
    if (tokens_.current().kind == Token::Kind::integer)
      return with(Kind::item, token.line, std::move(subject), number());
    ExpressionPtr e = with(Kind::member, token.line, std::move(subject));
    e->name = tokens_.expect_any_name();
    return e;
  }
  const auto bound = [&]() -> ExpressionPtr {
    return tokens_.is_op(":") || tokens_.is_op("]") ? nullptr : expression();
  };
  ExpressionPtr first = bound();
  if (!tokens_.is_op(":")) {
    if (!first) tokens_.unexpected("an index");
    if (tokens_.is_op(",")) {
      ExpressionPtr key = with(Kind::tuple, token.line, std::move(first));
      while (tokens_.take_op(",")) adopt(*key, expression());
      first = std::move(key);
    }
    tokens_.expect_op("]");
    return with(Kind::item, token.line, std::move(subject), std::move(first));
  }
  ExpressionPtr e = make(Kind::slice, token.line);
  adopt(*e, std::move(subject));
  adopt(*e, std::move(first));
  tokens_.take();
  adopt(*e, bound());
  adopt(*e, tokens_.take_op(":") ? bound() : nullptr);
  tokens_.expect_op("]");
  return e;
}

void ExpressionParser::take_arguments(Expression& e) {
  CallArguments& out = e.arguments;
  const int line = tokens_.current().line;
  tokens_.expect_op("(");
  const auto require = [&](bool holds) {
    if (!holds) fail_at(line, "the arguments of a call are in an order that is not allowed.");
  };
  for (bool any = false; !tokens_.is_op(")"); any = true) {
    if (any) {
      tokens_.expect_op(",");
      if (tokens_.is_op(")")) break;
    }
    if (tokens_.take_op("*")) {
      require(!out.more_positional && !out.more_named);
      out.more_positional = expression();
    } else if (tokens_.take_op("**")) {
      require(!out.more_named);
      out.more_named = expression();
    } else if (tokens_.current().kind == Token::Kind::name && tokens_.after().kind == Token::Kind::op &&
               tokens_.after().text == "=") {
      require(!out.more_named);
      std::string name = tokens_.take().text;
      tokens_.take();
      out.named.emplace_back(std::move(name), expression());
    } else {
      require(!out.more_positional && !out.more_named && out.named.empty());
      out.positional.push_back(expression());
    }
  }
  tokens_.expect_op(")");
  for (const ExpressionPtr& part : out.positional) deepen(e, *part);
  for (const auto& [name, part] : out.named) deepen(e, *part);
  if (out.more_positional) deepen(e, *out.more_positional);
  if (out.more_named) deepen(e, *out.more_named);
}

ExpressionPtr ExpressionParser::call(ExpressionPtr subject) {
  ExpressionPtr e = with(Kind::call, tokens_.current().line, std::move(subject));
  take_arguments(*e);
  return e;
}

ExpressionPtr ExpressionParser::filters(ExpressionPtr subject, bool started) {
  while (started || tokens_.take_op("|")) {
    started = false;
    ExpressionPtr e = make(Kind::filter, tokens_.current().line);
    adopt(*e, std::move(subject));
    e->name = tokens_.expect_any_name();
    while (tokens_.take_op(".")) e->name += "." + tokens_.expect_any_name();
    if (tokens_.is_op("(")) take_arguments(*e);
    subject = std::move(e);
  }
  return subject;
}

ExpressionPtr ExpressionParser::test(ExpressionPtr subject) {
  const int line = tokens_.take().line;
  const bool negated = tokens_.take_name("not");
  ExpressionPtr e = with(Kind::test, line, std::move(subject));
  e->name = tokens_.expect_any_name();
  while (tokens_.take_op(".")) e->name += "." + tokens_.expect_any_name();
  const Token& next = tokens_.current();
  if (tokens_.is_op("(")) {
    take_arguments(*e);
  } else if (next.kind == Token::Kind::string || next.kind == Token::Kind::integer ||
             next.kind == Token::Kind::real || tokens_.is_op("[") || tokens_.is_op("{") ||
             (next.kind == Token::Kind::name && next.text != "else" && next.text != "or" &&
              next.text != "and")) {
    if (tokens_.is_name("is")) fail_at(next.line, "tests cannot be chained with 'is'.");
    e->arguments.positional.push_back(postfix(primary()));
    deepen(*e, *e->arguments.positional.back());
  }
  return negated ? with(Kind::logical_not, line, std::move(e)) : std::move(e);
}

}  // namespace penstock::jinja
