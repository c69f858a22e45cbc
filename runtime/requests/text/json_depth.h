// How deep JSON nests. nlohmann's parser takes any depth, but copying and printing recurse, so files and rows
// are checked before anything else is done with them. Pure function.
#pragma once

#include <cstddef>
#include <utility>
#include <vector>

namespace penstock {

constexpr size_t kMaxJsonDepth = 200;

/// Does `json` hold arrays and objects within each other more than `depth` deep? Uses no recursion.
template <typename Json>
bool nests_deeper(const Json& json, size_t depth) {
  std::vector<std::pair<const Json*, size_t>> open{{&json, 0}};
  while (!open.empty()) {
    const auto [value, at] = open.back();
    open.pop_back();
    if (!value->is_structured()) continue;
    if (at == depth) return true;
    for (const Json& inner : *value) {
      if (inner.is_structured()) open.emplace_back(&inner, at + 1);
    }
  }
  return false;
}

}  // namespace penstock
