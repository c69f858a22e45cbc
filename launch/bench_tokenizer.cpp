// `penstock bench tokenizer`: encoding speed on one core.
#include <CLI/CLI.hpp>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <sstream>

#include "launch/bench.h"
#include "runtime/base/error.h"
#include "runtime/requests/text/bench.h"

namespace penstock {
namespace {

int bench_tokenizer(const std::filesystem::path& tokenizer, const std::filesystem::path& text_file) {
  std::ifstream file(text_file, std::ios::binary);
  std::stringstream text;
  if (!file || !(text << file.rdbuf()))
    throw UsageError("--text " + text_file.string() + ": cannot be read or is empty");
  const TokenizerSpeed speed = measure_tokenizer(tokenizer, text.str());
  std::printf("reading the text once: %.0f MB/s\n", speed.read_bound_mb_per_s);
  for (const TokenizerSpeed::Case& c : speed.cases)
    std::printf("%-28s %9zu bytes, %8zu tokens: %7.1f MB/s\n", c.name.c_str(), c.bytes, c.tokens, c.mb_per_s);
  return 0;
}

}  // namespace

void add_bench_tokenizer(CLI::App& bench, Command& chosen) {
  CLI::App* sub = bench.add_subcommand("tokenizer", "Encoding speed of a tokenizer.json on one core");
  struct Flags {
    std::filesystem::path tokenizer, text;
  };
  auto flags = std::make_shared<Flags>();
  sub->add_option("--tokenizer,--model,-m", flags->tokenizer, "Folder with tokenizer.json")->required();
  sub->add_option("--text", flags->text, "UTF-8 text to encode")->required();
  sub->callback(
      [flags, &chosen] { chosen = [flags] { return bench_tokenizer(flags->tokenizer, flags->text); }; });
}

}  // namespace penstock
