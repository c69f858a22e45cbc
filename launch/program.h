// The program behind main(): reads the command line, runs the chosen subcommand, turns errors into one
// message and an exit status. Apart from main() so that tests run it in their own process.
#pragma once

namespace penstock {

/// Returns the exit status (runtime/base/error.h).
int run_program(int argc, const char* const* argv);

}  // namespace penstock
