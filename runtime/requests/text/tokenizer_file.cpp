// Tokenizer::load: a model's folder into a Tokenizer.
#include <fstream>
#include <nlohmann/json.hpp>

#include "runtime/base/error.h"
#include "runtime/base/json_file.h"
#include "runtime/requests/text/config_tokens.h"
#include "runtime/requests/text/json_depth.h"
#include "runtime/requests/text/special_tokens.h"
#include "runtime/requests/text/tokenizer.h"
#include "runtime/requests/text/tokenizer_parts.h"

namespace penstock {
namespace {

using nlohmann::json;
namespace fs = std::filesystem;

/// A token's name: a string, or {"content": string}.
std::optional<std::string> token_name(const json& file, const char* role) {
  if (!file.is_object() || !file.contains(role)) return std::nullopt;
  const json& field = file[role];
  if (field.is_string()) return field.get<std::string>();
  if (field.is_object() && field.contains("content") && field["content"].is_string()) {
    return field["content"].get<std::string>();
  }
  return std::nullopt;
}

}  // namespace

SpecialTokens read_special_tokens(const fs::path& folder) {
  SpecialTokens out;
  // What tokenizer_config.json says wins.
  for (const char* name : {"tokenizer_config.json", "special_tokens_map.json"}) {
    if (!fs::exists(folder / name)) continue;
    const json file = read_json_file(folder / name);
    const auto set = [&](std::optional<std::string>& token, const char* role) {
      if (!token) token = token_name(file, role);
    };
    set(out.bos, "bos_token");
    set(out.eos, "eos_token");
    set(out.pad, "pad_token");
    set(out.unk, "unk_token");
  }
  return out;
}

std::shared_ptr<const Tokenizer> Tokenizer::load(const fs::path& path) {
  const fs::path file = fs::is_directory(path) ? path / "tokenizer.json" : path;
  if (!fs::exists(file)) {
    throw UsageError(file.string() +
                     " does not exist; a tokenizer is a folder with a tokenizer.json, or such a file.");
  }
  return assemble(read_text_file(file), file.string(), file.parent_path());
}

std::shared_ptr<const Tokenizer> Tokenizer::parse(const std::string& text, const std::string& name) {
  return assemble(text, name, std::nullopt);
}

std::shared_ptr<const Tokenizer> Tokenizer::assemble(const std::string& text, const std::string& name,
                                                     const std::optional<fs::path>& folder) {
  const json root = parse_json(text, name);
  if (!root.is_object() || nests_deeper(root, kMaxJsonDepth)) {
    throw UsageError(name + " must hold a JSON object that nests at most " + std::to_string(kMaxJsonDepth) +
                     " deep.");
  }
  const json absent;
  const auto part = [&](const char* field) -> const json& {
    return root.contains(field) ? root[field] : absent;
  };
  SpecialTokens special_tokens;
  std::vector<AddedToken> later;
  if (folder) {
    special_tokens = read_special_tokens(*folder);
    later = read_config_tokens(*folder, part("added_tokens"));
  }
  try {
    auto parts = std::make_unique<Parts>();
    parts->normalizer = Normalizer::parse(part("normalizer"));
    parts->pre_tokenizer = PreTokenizer::parse(part("pre_tokenizer"));
    parts->model = Bpe::parse(part("model"), parts->pre_tokenizer.ends_in_bytes());
    parts->added =
        AddedTokens::parse(part("added_tokens"), later, parts->model.vocabulary(), parts->normalizer);
    parts->post_processor = PostProcessor::parse(
        part("post_processor"), std::max(parts->model.vocabulary().id_bound(), parts->added.id_bound()));
    parts->decoder = Decoder::parse(part("decoder"));
    parts->special_tokens = std::move(special_tokens);
    return std::shared_ptr<const Tokenizer>(new Tokenizer(std::move(parts)));
  } catch (const UsageError& error) {
    throw UsageError(name + ": " + error.what());
  }
}

}  // namespace penstock
