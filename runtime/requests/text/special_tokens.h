// Which tokens a model's folder gives a role: bos, eos, pad, unk. Pure function; any thread.
#pragma once

#include <filesystem>

#include "runtime/requests/text/tokenizer.h"

namespace penstock {

/// From tokenizer_config.json, then special_tokens_map.json; nothing where no file gives one. Throws
/// UsageError naming a file that is not JSON.
SpecialTokens read_special_tokens(const std::filesystem::path& folder);

}  // namespace penstock
