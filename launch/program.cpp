#include "launch/program.h"

#include <CLI/CLI.hpp>
#include <cstdlib>

#include "launch/commands.h"
#include "runtime/base/error.h"
#include "runtime/base/log.h"

namespace penstock {
namespace {

/// Under a launcher every rank reads the same command line: one of them tells what is wrong with it.
bool speaks() {
  for (const char* name : {"OMPI_COMM_WORLD_RANK", "PMIX_RANK", "PMI_RANK", "SLURM_PROCID"})
    if (const char* rank = std::getenv(name)) return std::string(rank) == "0";
  return true;
}

}  // namespace

int run_program(int argc, const char* const* argv) {
  CLI::App app{
      "Penstock turns a file of prompts into a file of answers. The decoder is cut into pipeline stages, one "
      "per MPI rank:\n"
      "  mpirun -n 4 penstock generate --model DIR -i requests.jsonl -o results.jsonl\n"
      "Without mpirun, one process does everything.",
      "penstock"};
  app.require_subcommand(1);
  app.set_version_flag("--version", "penstock " PENSTOCK_VERSION);
  app.get_formatter()->column_width(38);
  Command chosen;
  add_generate(app, chosen);
  add_plan(app, chosen);
  add_tokenize(app, chosen);
  add_trace(app, chosen);
  add_results(app, chosen);
  add_quantize(app, chosen);
  add_validate(app, chosen);
  add_bench(app, chosen);
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& e) {
    if (e.get_exit_code() == 0) return speaks() ? app.exit(e) : 0;
    if (speaks()) app.exit(e);
    return static_cast<int>(ExitStatus::bad_usage);
  }
  try {
    return chosen();
  } catch (const Error& e) {
    if (speaks()) log::error(e.what());
    return static_cast<int>(e.status());
  } catch (const std::exception& e) {
    if (speaks()) log::error(e.what());
    return static_cast<int>(ExitStatus::runtime_failure);
  }
}

}  // namespace penstock
