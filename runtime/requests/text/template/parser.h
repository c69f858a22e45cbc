// Jinja's grammar: tokens to a tree.
#pragma once

#include <algorithm>

#include "runtime/requests/text/template/ast.h"
#include "runtime/requests/text/template/lexer.h"

namespace penstock::jinja {

/// Throws Error with the line where the template is not one, uses a tag that chat templates do not have
/// (include, extends ...), or nests too deep.
Body parse(const std::string& source);

/// A walk over tokens; shared by the statement and the expression parser.
class TokenStream {
 public:
  explicit TokenStream(std::vector<Token> tokens) : tokens_(std::move(tokens)) {}
  const Token& current() const { return tokens_[at_]; }
  const Token& after() const { return tokens_[std::min(at_ + 1, tokens_.size() - 1)]; }
  Token take();
  bool is_op(const char* op) const { return current().kind == Token::Kind::op && current().text == op; }
  bool is_name(const char* name) const {
    return current().kind == Token::Kind::name && current().text == name;
  }
  bool take_op(const char* op);
  bool take_name(const char* name);
  void expect_op(const char* op);
  void expect_name(const char* name);
  std::string expect_any_name();
  size_t position() const { return at_; }
  /// Did this name stand between `from` and here?
  bool had_name(size_t from, std::string_view name) const;
  [[noreturn]] void unexpected(const std::string& expected) const;

  /// Counts nesting for as long as it lives.
  class Nested {
   public:
    explicit Nested(TokenStream& stream) : stream_(stream) { stream.enter(); }
    ~Nested() { --stream_.depth_; }
    Nested(const Nested&) = delete;
    Nested& operator=(const Nested&) = delete;

   private:
    TokenStream& stream_;
  };

 private:
  void enter();
  std::vector<Token> tokens_;
  size_t at_ = 0;
  int depth_ = 0;
};

class ExpressionParser {
 public:
  explicit ExpressionParser(TokenStream& tokens) : tokens_(tokens) {}
  ExpressionPtr expression(bool with_condition = true);
  /// One expression, or several with commas as a tuple. `end`: a name that ends it, or null.
  ExpressionPtr tuple(bool with_condition, const char* end, bool in_brackets);
  /// What can be assigned to: a name, ns.name if `with_members`, or a tuple of these up to the name `end`.
  ExpressionPtr target(const char* end, bool with_members);
  /// `| name(...) | ...` behind `subject`. `started`: the first name comes without a bar.
  ExpressionPtr filters(ExpressionPtr subject, bool started);

 private:
  ExpressionPtr condition();
  ExpressionPtr logical_or();
  ExpressionPtr logical_and();
  ExpressionPtr logical_not();
  ExpressionPtr compare();
  ExpressionPtr sum();
  ExpressionPtr concat();
  ExpressionPtr product();
  ExpressionPtr power();
  ExpressionPtr unary(bool with_filter);
  ExpressionPtr primary();
  ExpressionPtr postfix(ExpressionPtr subject);
  ExpressionPtr filters_and_tests(ExpressionPtr subject);
  ExpressionPtr subscript(ExpressionPtr subject);
  ExpressionPtr call(ExpressionPtr subject);
  ExpressionPtr test(ExpressionPtr subject);
  void take_arguments(Expression& e);
  bool at_tuple_end(const char* end) const;
  ExpressionPtr number();
  ExpressionPtr make(Expression::Kind kind, int line) const;
  ExpressionPtr with(Expression::Kind kind, int line, ExpressionPtr a, ExpressionPtr b = nullptr) const;
  static void deepen(Expression& e, const Expression& child);
  static void adopt(Expression& e, ExpressionPtr child);

  TokenStream& tokens_;
};

}  // namespace penstock::jinja
