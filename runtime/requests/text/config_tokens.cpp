#include "runtime/requests/text/config_tokens.h"

#include <algorithm>
#include <charconv>
#include <map>
#include <nlohmann/json.hpp>
#include <set>

#include "runtime/base/error.h"
#include "runtime/base/json_file.h"
#include "runtime/requests/text/json_fields.h"

namespace penstock {
namespace {

using nlohmann::json;
namespace fs = std::filesystem;

constexpr const char* kRoles[] = {"bos_token", "eos_token", "unk_token", "sep_token",
                                  "pad_token", "cls_token", "mask_token"};

json object_in(const fs::path& file) {
  json content = fs::exists(file) ? read_json_file(file) : json::object();
  if (!content.is_object()) throw UsageError(file.string() + " must hold a JSON object.");
  return content;
}

int64_t id_of(const std::string& key) {
  int64_t id = 0;
  const auto [end, error] = std::from_chars(key.data(), key.data() + key.size(), id);
  if (error != std::errc{} || end != key.data() + key.size())
    throw UsageError("'added_tokens_decoder': expected ids as keys, found '" + key + "'.");
  return id;
}

/// A token that its content alone names is special.
AddedToken token_of(const json& field) {
  if (!field.is_string()) return read_added_token(field);
  AddedToken token;
  token.content = field.get<std::string>();
  token.special = true;
  token.normalized = false;
  return token;
}

/// What special_tokens_map.json says stands over tokenizer_config.json; its extra tokens come behind.
void merge_map(json& config, const json& map) {
  for (const auto& [key, value] : map.items()) {
    if (key != "extra_special_tokens" || !value.is_array() || !config.value(key, json()).is_array()) {
      config[key] = value;
      continue;
    }
    for (const json& token : value)
      if (std::find(config[key].begin(), config[key].end(), token) == config[key].end())
        config[key].push_back(token);
  }
}

/// Tokens with a role, then extra ones, each in order. An object of extra tokens names roles of its own.
struct Named {
  std::vector<AddedToken> roles;
  std::vector<AddedToken> extra;

  explicit Named(const json& config) {
    for (const char* role : kRoles)
      if (config.contains(role) && !config[role].is_null()) roles.push_back(token_of(config[role]));
    const char* const list =
        config.contains("extra_special_tokens") ? "extra_special_tokens" : "additional_special_tokens";
    if (!config.contains(list) || config[list].is_null()) return;
    for (const json& field : config[list])
      (config[list].is_object() ? roles : extra).push_back(token_of(field));
  }
};

}  // namespace

std::vector<AddedToken> read_config_tokens(const fs::path& folder, const json& listed) {
  const fs::path file = folder / "tokenizer_config.json";
  try {
    json config = object_in(file);
    std::map<int64_t, AddedToken> by_id;
    if (config.contains("added_tokens_decoder")) {
      for (const auto& [key, field] : config["added_tokens_decoder"].items())
        by_id[id_of(key)] = read_added_token(field);
    } else {
      merge_map(config, object_in(folder / "special_tokens_map.json"));
    }
    Named named(config);
    std::set<std::string> role_names, known;
    for (const AddedToken& token : named.roles) role_names.insert(token.content);
    if (listed.is_array())
      for (const json& token : listed) known.insert(json_fields::required_text(token, "content"));
    std::vector<AddedToken> tokens;
    for (auto& [id, token] : by_id) {
      token.special = token.special || role_names.contains(token.content);
      known.insert(token.content);
      tokens.push_back(std::move(token));
    }
    for (auto* const list : {&named.roles, &named.extra})
      for (AddedToken& token : *list) {
        if (!known.insert(token.content).second) continue;
        token.special = token.special || role_names.contains(token.content);
        tokens.push_back(std::move(token));
      }
    return tokens;
  } catch (const json::exception& error) {
    throw UsageError(file.string() + ": " + error.what());
  } catch (const UsageError& error) {
    const std::string what = error.what();
    throw UsageError(what.starts_with(folder.string()) ? what : file.string() + ": " + what);
  }
}

}  // namespace penstock
