// The normalizer of tokenizer.json: rewrites text before it is cut. Immutable; any thread may call.
#pragma once

#include <memory>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <string_view>
#include <vector>

namespace penstock {

class Normalizer {
 public:
  class Step {
   public:
    virtual ~Step() = default;
    /// Rewrites `text` in place, to at most `bound` bytes where it could grow without limit. Returns false
    /// when it took characters away from the front: the text then no longer begins where the input did.
    virtual bool run(std::string& text, size_t bound) const = 0;
  };

  /// `json` is the normalizer object or null. Throws UsageError naming a type that is not known.
  static Normalizer parse(const nlohmann::json& json);

  bool changes_nothing() const { return steps_.empty(); }
  bool run(std::string& text) const;

 private:
  std::vector<std::unique_ptr<Step>> steps_;
};

}  // namespace penstock
