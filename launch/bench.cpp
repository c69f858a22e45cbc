// `penstock bench`: figures, each beside its bound.
#include "launch/bench.h"

#include <CLI/CLI.hpp>

namespace penstock {

void add_bench(CLI::App& app, Command& chosen) {
  CLI::App* bench =
      app.add_subcommand("bench", "Measure kernels, tokenizer and pipeline beside the machine's bounds");
  bench->require_subcommand(1);
  add_bench_kernels(*bench, chosen);
  add_bench_pipeline(*bench, chosen);
  add_bench_tokenizer(*bench, chosen);
}

}  // namespace penstock
