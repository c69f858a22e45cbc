// A template's source as tokens: text, {{ }}, {% %} and what stands inside. Jinja's lexer with trim_blocks
// and lstrip_blocks on and without a trailing newline, the way Hugging Face sets it up.
#pragma once

#include <string>
#include <vector>

namespace penstock::jinja {

struct Token {
  enum class Kind {
    data,
    variable_begin,
    variable_end,
    block_begin,
    block_end,
    name,
    string,
    integer,
    real,
    op,
    end
  };
  Kind kind = Kind::end;
  std::string text;  // of data, names, operators; strings unescaped; numbers as written, without underscores
  int line = 1;
};

/// Throws Error with the line for what is no token, and for a tag that is not closed.
std::vector<Token> tokenize(const std::string& source);

/// "The chat template failed at line 3: ..." as an Error.
[[noreturn]] void fail_at(int line, const std::string& what);

}  // namespace penstock::jinja
