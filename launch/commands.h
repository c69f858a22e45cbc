// The subcommands, one file each. Each adds itself to the command line and, when chosen, runs and returns the
// exit status.
#pragma once

#include <functional>

namespace CLI {
class App;
}

namespace penstock {

/// Set by the chosen subcommand's parsing: what to run.
using Command = std::function<int()>;

void add_generate(CLI::App& app, Command& chosen);
void add_plan(CLI::App& app, Command& chosen);
void add_tokenize(CLI::App& app, Command& chosen);
void add_trace(CLI::App& app, Command& chosen);
void add_results(CLI::App& app, Command& chosen);
void add_quantize(CLI::App& app, Command& chosen);
void add_validate(CLI::App& app, Command& chosen);
void add_bench(CLI::App& app, Command& chosen);

}  // namespace penstock
