// The post_processor of tokenizer.json: which special tokens go around a sequence when they are asked for.
// Immutable; any thread may call.
#pragma once

#include <cstdint>
#include <functional>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string_view>
#include <vector>

namespace penstock {

class PostProcessor {
 public:
  /// `json` is the post_processor object or null; ids at or above `id_bound` are refused. Throws UsageError
  /// naming a type that is not known.
  static PostProcessor parse(const nlohmann::json& json, size_t id_bound);

  /// Puts the special tokens around and between.
  void run(std::vector<int32_t>& ids) const;

 private:
  // One template: the stretches of special tokens between which the sequence stands. Two stretches: before,
  // behind.
  using Template = std::vector<std::vector<int32_t>>;
  static void add(const nlohmann::json& json, size_t id_bound, int depth, std::vector<Template>& out);
  std::vector<Template> templates_;
};

}  // namespace penstock
