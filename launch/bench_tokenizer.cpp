// `penstock bench tokenizer`
#include <CLI/CLI.hpp>

#include "launch/bench.h"

namespace penstock {

void add_bench_tokenizer(CLI::App&, Command&) {}

}  // namespace penstock
