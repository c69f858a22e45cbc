// `penstock tokenize`: one JSON object a line on standard input, one answer a line. Protocol:
// docs/formats.md.
#include <CLI/CLI.hpp>
#include <filesystem>
#include <iostream>
#include <string>

#include "launch/commands.h"
#include "runtime/requests/text/chat_template.h"
#include "runtime/requests/text/tokenize_protocol.h"

namespace penstock {
namespace {

int tokenize(const std::filesystem::path& folder, const std::filesystem::path& chat_template) {
  const TokenizeProtocol protocol(Tokenizer::load(folder), ChatRenderer::load(folder, chat_template));
  std::ios::sync_with_stdio(false);
  for (std::string line; std::getline(std::cin, line);)
    if (!line.empty()) std::cout << protocol.answer(line) << '\n' << std::flush;
  return 0;
}

}  // namespace

void add_tokenize(CLI::App& app, Command& chosen) {
  CLI::App* sub = app.add_subcommand("tokenize", "Text to token ids and back, a line at a time");
  struct Flags {
    std::filesystem::path tokenizer, chat_template;
  };
  auto flags = std::make_shared<Flags>();
  sub->add_option("--tokenizer,--model,-m", flags->tokenizer, "Folder with tokenizer.json")->required();
  sub->add_option("--chat-template", flags->chat_template,
                  "A Jinja file, in place of the folder's own template");
  sub->callback(
      [flags, &chosen] { chosen = [flags] { return tokenize(flags->tokenizer, flags->chat_template); }; });
}

}  // namespace penstock
