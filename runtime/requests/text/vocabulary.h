// Tokens and their ids. Built once, then read by any thread.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

namespace penstock {

class Vocabulary {
 public:
  /// Ids above this are refused: a wrong file must not make a table of four billion entries.
  static constexpr uint64_t kMaxId = 16'000'000;

  void add(std::string token, uint32_t id);
  std::optional<uint32_t> id_of(std::string_view token) const;
  /// Nothing for an id that no token has.
  const std::string* token_of(uint32_t id) const;
  /// The number of distinct tokens, and one more than the highest id.
  size_t size() const { return ids_.size(); }
  size_t id_bound() const { return tokens_.size(); }

 private:
  struct Hash : std::hash<std::string_view> {
    using is_transparent = void;
  };
  std::unordered_map<std::string, uint32_t, Hash, std::equal_to<>> ids_;
  std::vector<const std::string*> tokens_;
};

}  // namespace penstock
