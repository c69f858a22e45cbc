// `penstock results`: what can be done with answers once they are written.
#include <CLI/CLI.hpp>
#include <cstdio>
#include <memory>

#include "launch/commands.h"
#include "runtime/base/error.h"
#include "runtime/requests/journal/journal.h"
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

/// Writes what is finished to standard output, and where the job stands to standard error.
int print_journal(const std::filesystem::path& journal) {
  const JournalCounts counts = read_results(journal, [](std::string_view line) {
    std::fwrite(line.data(), 1, line.size(), stdout);
    std::fputc('\n', stdout);
  });
  if (std::fflush(stdout) != 0 || std::ferror(stdout) != 0)
    throw Error("standard output: writing the rows failed; is the disk full?");
  std::fprintf(stderr, "%llu of %llu rows are finished, %llu more have tokens that are saved\n",
               static_cast<unsigned long long>(counts.finished), static_cast<unsigned long long>(counts.rows),
               static_cast<unsigned long long>(counts.cut));
  if (counts.from_hdf5)
    std::fprintf(
        stderr,
        "The lines are made from the HDF5 output: all are completions, tokens are spelled token_id:7, and "
        "what that file does not hold is missing (docs/formats.md, \"Output: HDF5\")\n");
  return 0;
}

int results(const ResultsFlags& flags) {
  if (flags.merge) {
    if (flags.output.empty()) throw UsageError("--merge: expected --output-file with it, found none");
    return merge(flags);
  }
  if (!flags.output.empty() || flags.parts.size() != 1)
    throw UsageError("penstock results: expected one journal to print, or --merge with files to join");
  return print_journal(flags.parts.front());
}

}  // namespace

void add_results(CLI::App& app, Command& chosen) {
  CLI::App* sub = app.add_subcommand(
      "results", "Print the rows a job has finished so far, or join the answers to the parts of an input");
  auto flags = std::make_shared<ResultsFlags>();
  sub->add_flag("--merge", flags->merge, "Join the files, in the input's order, into --output-file");
  sub->add_option(
         "files", flags->parts,
         "A journal (OUTPUT.journal, or OUTPUT itself). With --merge, what `generate --shard` wrote, "
         "named ...shard-I-of-N...; other names: in the order given")
      ->required();
  sub->add_option("-o,--output-file", flags->output, "With --merge: the answers to the whole input");
  sub->callback([flags, &chosen] { chosen = [flags] { return results(*flags); }; });
}

}  // namespace penstock
