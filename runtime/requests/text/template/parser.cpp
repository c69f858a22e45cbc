#include "runtime/requests/text/template/parser.h"

#include <algorithm>

namespace penstock::jinja {
namespace {

using Kind = Statement::Kind;

constexpr int kMaxNesting = 150;

std::string shown(const Token& token) {
  switch (token.kind) {
    case Token::Kind::end:
      return "the end of the template";
    case Token::Kind::data:
      return "text";
    case Token::Kind::string:
      return "a string";
    default:
      return "'" + token.text + "'";
  }
}

class StatementParser {
 public:
  explicit StatementParser(const std::string& source) : tokens_(tokenize(source)), expressions_(tokens_) {}

  Body whole() { return statements({}); }

 private:
  using Ends = std::vector<const char*>;

  /// Statements up to a tag that begins with one of `ends`, whose "{%" is taken and whose name is current.
  Body statements(const Ends& ends) {
    const TokenStream::Nested nested(tokens_);
    const int begun = tokens_.current().line;
    Body body;
    while (true) {
      const Token& token = tokens_.current();
      if (token.kind == Token::Kind::end) {
        if (!ends.empty())
          fail_at(begun, std::string("the block that begins here has no '") + ends.back() + "'.");
        return body;
      }
      if (token.kind == Token::Kind::data) {
        Statement& s = add(body, Kind::text);
        s.text = tokens_.take().text;
      } else if (token.kind == Token::Kind::variable_begin) {
        tokens_.take();
        Statement& s = add(body, Kind::output);
        s.expression = expressions_.tuple(true, nullptr, false);
        expect(Token::Kind::variable_end, "}}");
      } else {
        tokens_.take();
        if (std::any_of(ends.begin(), ends.end(), [&](const char* end) { return tokens_.is_name(end); }))
          return body;
        statement(body);
        end_tag();
      }
    }
  }

  /// A block's body: ends its opening tag, and takes the name of the closing one.
  Body block(const Ends& ends) {
    end_tag();
    Body body = statements(ends);
    last_end_ = tokens_.take().text;
    return body;
  }

  void end_tag() { expect(Token::Kind::block_end, "%}"); }
  void expect(Token::Kind kind, const char* what) {
    if (tokens_.current().kind != kind) tokens_.unexpected(std::string("'") + what + "'");
    tokens_.take();
  }
  Statement& add(Body& body, Kind kind) {
    Statement s{};
    s.kind = kind;
    s.line = tokens_.current().line;
    body.push_back(std::move(s));
    return body.back();
  }

  void statement(Body& body) {
    const int line = tokens_.current().line;
    const std::string name = tokens_.expect_any_name();
    Statement s{};
    s.line = line;
    if (name == "if") {
      if_else(s);
    } else if (name == "for") {
      for_loop(s);
    } else if (name == "set") {
      set(s);
    } else if (name == "macro") {
      s.kind = Kind::macro;
      s.text = tokens_.expect_any_name();
      parameters(s.parameters);
      macro_body(s, "endmacro");
    } else if (name == "call") {
      s.kind = Kind::call_block;
      if (tokens_.is_op("(")) parameters(s.parameters);
      s.expression = expressions_.expression();
      if (s.expression->kind != Expression::Kind::call) fail_at(line, "a call block needs a call.");
      macro_body(s, "endcall");
    } else if (name == "filter") {
      s.kind = Kind::filter_block;
      s.expression = expressions_.filters(nullptr, true);
      s.body = block({"endfilter"});
    } else if (name == "with") {
      with(s);
    } else if (name == "generation") {
      s.kind = Kind::scoped;
      s.body = block({"endgeneration"});
    } else if (name == "print") {
      while (tokens_.current().kind != Token::Kind::block_end) {
        if (s.expression) {
          tokens_.expect_op(",");
          body.push_back(std::move(s));
          s = Statement{};
          s.line = line;
        }
        s.kind = Kind::output;
        s.expression = expressions_.expression();
      }
      if (!s.expression) return;
    } else if (name == "break" || name == "continue") {
      if (loops_ == 0) fail_at(line, "'" + name + "' stands outside of a loop.");
      s.kind = name == "break" ? Kind::break_loop : Kind::continue_loop;
    } else {
      fail_at(line, "the tag '" + name + "' is not one that chat templates have.");
    }
    body.push_back(std::move(s));
  }

  void if_else(Statement& s) {
    s.kind = Kind::if_else;
    ExpressionPtr condition = expressions_.tuple(false, nullptr, false);
    while (true) {
      Body body = block({"elif", "else", "endif"});
      s.branches.emplace_back(std::move(condition), std::move(body));
      if (last_end_ == "elif") {
        condition = expressions_.tuple(false, nullptr, false);
        continue;
      }
      if (last_end_ == "else") s.else_body = block({"endif"});
      return;
    }
  }

  void for_loop(Statement& s) {
    s.kind = Kind::for_loop;
    s.target = expressions_.target("in", false);
    tokens_.expect_name("in");
    s.expression = expressions_.tuple(false, "recursive", false);
    if (tokens_.take_name("if")) s.condition = expressions_.expression();
    s.recursive = tokens_.take_name("recursive");
    ++loops_;
    s.body = block({"else", "endfor"});
    --loops_;
    if (last_end_ == "else") s.else_body = block({"endfor"});
  }

  void set(Statement& s) {
    s.target = expressions_.target(nullptr, true);
    if (tokens_.take_op("=")) {
      s.kind = Kind::set;
      s.expression = expressions_.tuple(true, nullptr, false);
      return;
    }
    s.kind = Kind::set_block;
    s.expression = expressions_.filters(nullptr, false);
    s.body = block({"endset"});
  }

  void with(Statement& s) {
    s.kind = Kind::with;
    while (tokens_.current().kind != Token::Kind::block_end) {
      if (!s.bindings.empty()) tokens_.expect_op(",");
      ExpressionPtr target = expressions_.target(nullptr, false);
      tokens_.expect_op("=");
      s.bindings.emplace_back(std::move(target), expressions_.expression());
    }
    s.body = block({"endwith"});
  }

  void parameters(Parameters& out) {
    tokens_.expect_op("(");
    while (!tokens_.is_op(")")) {
      if (!out.names.empty()) tokens_.expect_op(",");
      out.names.push_back(tokens_.expect_any_name());
      if (tokens_.take_op("=")) {
        out.defaults.push_back(expressions_.expression());
      } else if (!out.defaults.empty()) {
        tokens_.unexpected("a default, as the parameter before has one");
      }
    }
    tokens_.expect_op(")");
  }

  void macro_body(Statement& s, const char* end) {
    const size_t from = tokens_.position();
    s.body = block({end});
    s.parameters.takes_varargs = tokens_.had_name(from, "varargs");
    s.parameters.takes_kwargs = tokens_.had_name(from, "kwargs");
    s.parameters.takes_caller = tokens_.had_name(from, "caller");
  }

  TokenStream tokens_;
  ExpressionParser expressions_;
  std::string last_end_;
  int loops_ = 0;
};

}  // namespace

Token TokenStream::take() {
  Token token = current();
  if (at_ + 1 < tokens_.size()) ++at_;
  return token;
}

bool TokenStream::take_op(const char* op) {
  if (!is_op(op)) return false;
  take();
  return true;
}

bool TokenStream::take_name(const char* name) {
  if (!is_name(name)) return false;
  take();
  return true;
}

void TokenStream::expect_op(const char* op) {
  if (!take_op(op)) unexpected(std::string("'") + op + "'");
}

void TokenStream::expect_name(const char* name) {
  if (!take_name(name)) unexpected(std::string("'") + name + "'");
}

std::string TokenStream::expect_any_name() {
  if (current().kind != Token::Kind::name) unexpected("a name");
  return take().text;
}

bool TokenStream::had_name(size_t from, std::string_view name) const {
  return std::any_of(tokens_.begin() + static_cast<ptrdiff_t>(from),
                     tokens_.begin() + static_cast<ptrdiff_t>(at_),
                     [&](const Token& t) { return t.kind == Token::Kind::name && t.text == name; });
}

void TokenStream::unexpected(const std::string& expected) const {
  fail_at(current().line, "expected " + expected + ", found " + shown(current()) + ".");
}

void TokenStream::enter() {
  if (++depth_ > kMaxNesting) {
    --depth_;
    fail_at(current().line, "the template nests more than " + std::to_string(kMaxNesting) + " deep.");
  }
}

Body parse(const std::string& source) {
  return StatementParser(source).whole();
}

}  // namespace penstock::jinja
