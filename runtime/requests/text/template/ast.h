// A parsed template. Immutable once parsed, shared by all renderings.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "runtime/requests/text/template/value.h"

namespace penstock::jinja {

struct Expression;
using ExpressionPtr = std::unique_ptr<Expression>;

/// What stands in the brackets of a call, a filter or a test.
struct CallArguments {
  std::vector<ExpressionPtr> positional;
  std::vector<std::pair<std::string, ExpressionPtr>> named;
  ExpressionPtr more_positional;  // *list
  ExpressionPtr more_named;       // **dict
};

struct Expression {
  enum class Kind {
    constant,     // value
    name,         // name
    member,       // parts[0].name; also the target ns.name of an assignment
    item,         // parts[0][parts[1]]
    slice,        // parts[0][parts[1]:parts[2]:parts[3]], each of the three may be null
    list,         // [parts...]
    tuple,        // (parts...)
    dict,         // {parts[0]: parts[1], ...}
    call,         // parts[0](arguments)
    filter,       // parts[0] | name(arguments); parts[0] null in a filter block
    test,         // parts[0] is name(arguments)
    negate,       // -parts[0]
    plus,         // +parts[0]
    logical_not,  // not parts[0]
    logical_and,
    logical_or,
    condition,  // parts[1] if parts[0] else parts[2], which may be null
    concat,     // parts[0] ~ parts[1] ~ ...
    binary,     // parts[0] op parts[1]
    compare,    // parts[0] op parts[1] op parts[2] ...
  };
  Kind kind;
  int line;
  int depth = 1;  // of the tree below, bounded by the parser: evaluating and destroying recurse
  std::string name;
  Value value;
  std::vector<std::string> operators;  // binary: one; compare: one before each part but the first
  std::vector<ExpressionPtr> parts;
  CallArguments arguments;
};

struct Statement;
using Body = std::vector<Statement>;

/// A macro's or a call block's parameters.
struct Parameters {
  std::vector<std::string> names;
  std::vector<ExpressionPtr> defaults;  // of the last of them
  // The body uses these names; without them Jinja refuses further arguments.
  bool takes_varargs = false;
  bool takes_kwargs = false;
  bool takes_caller = false;
};

struct Statement {
  enum class Kind {
    text,          // text
    output,        // expression
    if_else,       // branches: condition and body; else_body
    for_loop,      // target in expression, condition, body, else_body, recursive
    set,           // target = expression
    set_block,     // target = body, through `expression`, a filter chain on nothing, if there is one
    with,          // bindings of targets, body
    macro,         // name, parameters, body
    call_block,    // expression is the call, parameters, body
    filter_block,  // expression is the filter chain, body
    scoped,        // body in a scope of its own: generation
    break_loop,
    continue_loop,
  };
  Kind kind;
  int line;
  std::string text;  // also a macro's name
  ExpressionPtr expression;
  ExpressionPtr target;
  ExpressionPtr condition;
  std::vector<std::pair<ExpressionPtr, Body>> branches;
  std::vector<std::pair<ExpressionPtr, ExpressionPtr>> bindings;
  Body body;
  Body else_body;
  Parameters parameters;
  bool recursive = false;
};

}  // namespace penstock::jinja
