// `penstock results`: what can be done with answers once they are written.
#include <CLI/CLI.hpp>
#include <cstdio>
#include <memory>

#include "launch/commands.h"
#include "runtime/requests/merge_results.h"

namespace penstock {
namespace {

struct ResultsFlags {
  std::vector<std::filesystem::path> parts;
  std::filesystem::path output;
  bool merge = false;
};

int merge(const ResultsFlags& flags) {
  const MergeReport report = merge_results(flags.parts, flags.output);
  std::printf("%llu rows of %zu files in %s", static_cast<unsigned long long>(report.rows),
              flags.parts.size(), flags.output.c_str());
  if (report.repeated_ids > 0)
    std::printf("; %llu became errors, because an earlier part has their custom_id",
                static_cast<unsigned long long>(report.repeated_ids));
  std::printf("\n");
  return 0;
}

}  // namespace

void add_results(CLI::App& app, Command& chosen) {
  CLI::App* sub = app.add_subcommand("results", "Join the answers to the parts of an input");
  auto flags = std::make_shared<ResultsFlags>();
  sub->add_flag("--merge", flags->merge, "Join the files, in the input's order, into --output-file")
      ->required();
  sub->add_option("files", flags->parts,
                  "What `generate --shard` wrote, named ...shard-I-of-N...; other names: in the order given")
      ->required();
  sub->add_option("-o,--output-file", flags->output, "The answers to the whole input")->required();
  sub->callback([flags, &chosen] { chosen = [flags] { return merge(*flags); }; });
}

}  // namespace penstock
