// Added tokens that a model's folder names beside tokenizer.json: in tokenizer_config.json's
// added_tokens_decoder, as tokens with a role (bos_token ... mask_token), and as extra special tokens.
// Hugging Face's transformers (version 5) adds them when it loads the folder, over what tokenizer.json says
// of them.
#pragma once

#include <filesystem>
#include <nlohmann/json_fwd.hpp>
#include <vector>

#include "runtime/requests/text/added_tokens.h"

namespace penstock {

/// In the order in which they are added, ids not set. `listed` is tokenizer.json's added_tokens or null: a
/// token with a role is added only where neither it nor added_tokens_decoder has it. Throws UsageError naming
/// the file where it does not fit.
std::vector<AddedToken> read_config_tokens(const std::filesystem::path& folder, const nlohmann::json& listed);

}  // namespace penstock
