// Reads the subset of regular expressions that RunPattern matches.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "runtime/requests/text/run_pattern.h"

namespace penstock {

struct ParsedRunPattern {
  std::vector<RunPattern::Alternative> alternatives;
  std::vector<CodePointRanges> classes;  // class i is bit 1 << i
};

/// Nothing when any part of the pattern is outside the subset.
std::optional<ParsedRunPattern> parse_run_pattern(const std::string& pattern);

}  // namespace penstock
