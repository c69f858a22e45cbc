// Jinja's and Python's built-in vocabulary: methods of values, filters, tests, global functions. Each table
// is a switch by name in its own source file.
#pragma once

#include <optional>
#include <string>

#include "runtime/requests/text/template/interpreter.h"

namespace penstock::jinja {

/// Does str, list, tuple or dict have this method, and may templates call it?
bool has_method(const Value& subject, const std::string& name);
/// Does it exist, but would change its subject? The sandbox refuses those.
bool is_mutating_method(const Value& subject, const std::string& name);
Value call_method(Interpreter& run, const Value& subject, const std::string& name,
                  const Arguments& arguments);

/// Nothing when there is no filter of that name in the table.
std::optional<Value> text_filter(Interpreter& run, const std::string& name, const Value& subject,
                                 const Arguments& arguments);
std::optional<Value> number_filter(Interpreter& run, const std::string& name, const Value& subject,
                                   const Arguments& arguments);
std::optional<Value> sequence_filter(Interpreter& run, const std::string& name, const Value& subject,
                                     const Arguments& arguments);
std::optional<Value> selection_filter(Interpreter& run, const std::string& name, const Value& subject,
                                      const Arguments& arguments);

/// range, dict, namespace, cycler, joiner, raise_exception, strftime_now; nothing for another name.
std::optional<Value> global_function(Interpreter& run, const std::string& name);

/// value % arguments, Python's printf.
std::string percent_format(Interpreter& run, const std::string& format, const std::vector<Value>& positional,
                           const Dict* named);
/// format.format(...): {} {0} {name}, with a field's attributes and items.
std::string brace_format(Interpreter& run, const std::string& format, const Arguments& arguments);

/// Looks up "a.b.0" as the filters' attribute arguments do. `otherwise` replaces what is undefined, if given.
Value attribute_path(Interpreter& run, const Value& subject, const Value& path, const Value* otherwise);

}  // namespace penstock::jinja
