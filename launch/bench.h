// The parts of `penstock bench`, one file each.
#pragma once

#include "launch/commands.h"

namespace penstock {

void add_bench_kernels(CLI::App& bench, Command& chosen);
void add_bench_pipeline(CLI::App& bench, Command& chosen);
void add_bench_tokenizer(CLI::App& bench, Command& chosen);

}  // namespace penstock
