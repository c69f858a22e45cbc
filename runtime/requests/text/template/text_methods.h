// The methods of str.
#pragma once

#include <string>

#include "runtime/requests/text/template/interpreter.h"

namespace penstock::jinja {

bool has_text_method(const std::string& name);
Value call_text_method(Interpreter& run, const std::string& subject, const std::string& name,
                       const Arguments& arguments);

/// str.center, with Python's choice of the side for an odd space.
std::string centered(Interpreter& run, const std::string& s, int64_t width, const std::string& fill);

}  // namespace penstock::jinja
