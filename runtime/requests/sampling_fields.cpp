#include "runtime/requests/sampling_fields.h"

#include <algorithm>
#include <charconv>

#include "runtime/base/error.h"
#include "runtime/base/json_file.h"
#include "runtime/requests/field_checks.h"

namespace penstock {
namespace {

using field::Json;
using field::number;
using field::truth;
using field::whole_number;

constexpr int64_t kMostTokens = int64_t{1} << 31;

/// {"token id": bias}; vLLM pulls biases beyond 100 back to it.
std::vector<std::pair<int32_t, float>> bias_of(const std::string& name, const Json& value) {
  if (!value.is_object()) field::reject(name, "an object of token ids and numbers", value);
  std::vector<std::pair<int32_t, float>> bias;
  for (const auto& [key, given] : value.items()) {
    int32_t id = -1;
    const auto [end, status] = std::from_chars(key.data(), key.data() + key.size(), id);
    if (status != std::errc() || end != key.data() + key.size() || id < 0)
      field::reject(name, "token ids as names", Json(key));
    const float b = number(name, given, -1e300, 1e300, "a number for each token id");
    bias.emplace_back(id, std::clamp(b, -100.0F, 100.0F));
  }
  std::sort(bias.begin(), bias.end());
  const auto same = std::adjacent_find(bias.begin(), bias.end(),
                                       [](const auto& a, const auto& b) { return a.first == b.first; });
  if (same != bias.end()) field::reject(name, "each token id once", Json(std::to_string(same->first)));
  return bias;
}

/// Those of the fields that generation_config.json may set.
bool read_default_field(const std::string& name, const Json& value, SamplingFields& s) {
  if (name == "temperature")
    s.temperature = number(name, value, 0, 100, "a number from 0 to 100");
  else if (name == "top_p")
    s.top_p = number(name, value, 0x1p-149, 1, "a number above 0 and at most 1");
  else if (name == "top_k")
    s.top_k = static_cast<int32_t>(std::max<int64_t>(0, whole_number(name, value, -1, INT32_MAX)));
  else if (name == "min_p")
    s.min_p = number(name, value, 0, 1, "a number from 0 to 1");
  else if (name == "repetition_penalty")
    s.repetition_penalty = number(name, value, 0x1p-126, 1e6, "a number above 0 and at most 1000000");
  else
    return false;
  return true;
}

bool read_length_field(const std::string& name, const Json& value, SamplingFields& s) {
  if (name == "max_tokens") {
    s.max_tokens = whole_number(name, value, 0, kMostTokens);
  } else if (name == "min_tokens") {
    s.min_tokens = whole_number(name, value, 0, kMostTokens);
  } else if (name == "ignore_eos") {
    s.ignore_eos = truth(name, value);
  } else if (name == "stop_token_ids") {
    s.stop_token_ids = field::token_ids(name, value);
  } else if (name == "stop") {
    s.stop = field::words(name, value.is_string() ? Json::array({value}) : value);
  } else if (name == "include_stop_str_in_output") {
    s.include_stop_str_in_output = truth(name, value);
  } else {
    return false;
  }
  return true;
}

bool read_logit_field(const std::string& name, const Json& value, SamplingFields& s) {
  if (name == "presence_penalty") {
    s.presence_penalty = number(name, value, -2, 2, "a number from -2 to 2");
  } else if (name == "frequency_penalty") {
    s.frequency_penalty = number(name, value, -2, 2, "a number from -2 to 2");
  } else if (name == "logit_bias") {
    s.logit_bias = bias_of(name, value);
  } else if (name == "allowed_token_ids") {
    s.allowed_token_ids = field::token_ids(name, value);
    if (s.allowed_token_ids.empty()) field::reject(name, "at least one token id", value);
  } else if (name == "bad_words") {
    s.bad_words = field::words(name, value);
  } else if (name == "best_of") {
    field::reject(name, "none: vLLM has no best_of any more; ask for n answers and choose among them", value);
  } else {
    return false;
  }
  return true;
}

}  // namespace

bool read_sampling_field(const std::string& name, const Json& value, int32_t max_logprobs,
                         int64_t max_choices, SamplingFields& s) {
  if (read_default_field(name, value, s) || read_length_field(name, value, s) ||
      read_logit_field(name, value, s))
    return true;
  if (name == "n") {
    s.n = whole_number(name, value, 1, max_choices);
  } else if (name == "seed") {
    s.seed = whole_number(name, value, INT64_MIN, INT64_MAX);
  } else if (name == "prompt_logprobs") {
    s.prompt_logprobs = static_cast<int32_t>(whole_number(name, value, 0, max_logprobs));
  } else if (name == "echo") {
    s.echo = truth(name, value);
  } else if (name == "skip_special_tokens") {
    s.skip_special_tokens = truth(name, value);
  } else if (name == "spaces_between_special_tokens") {
    s.spaces_between_special_tokens = truth(name, value);
  } else if (name == "return_token_ids") {
    s.return_token_ids = truth(name, value);
  } else if (name == "add_special_tokens") {
    s.add_special_tokens = truth(name, value);
  } else {
    return false;
  }
  return true;
}

GenerationDefaults load_generation_defaults(const std::string& source, const std::filesystem::path& model) {
  GenerationDefaults defaults;
  if (source == "vllm") return defaults;
  const std::filesystem::path path =
      (source == "auto" ? model : std::filesystem::path(source)) / "generation_config.json";
  if (source == "auto" && !std::filesystem::exists(path)) return defaults;
  const nlohmann::json file = read_json_file(path);
  if (!file.is_object()) throw UsageError(path.string() + ": expected a JSON object.");
  try {
    for (const auto& [name, value] : file.items()) {
      if (value.is_null()) continue;
      const Json ordered = value;
      if (name == "max_new_tokens")
        defaults.most_new_tokens = whole_number(name, ordered, 1, kMostTokens);
      else
        read_default_field(name, ordered, defaults.fields);
    }
  } catch (const FieldError& e) {
    throw UsageError(path.string() + ": " + e.message + ". Correct it, or give --generation-config vllm.");
  }
  return defaults;
}

}  // namespace penstock
