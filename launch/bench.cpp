#include <CLI/CLI.hpp>

#include "launch/commands.h"

namespace penstock {
void add_bench(CLI::App&, Command&) {}
}  // namespace penstock
