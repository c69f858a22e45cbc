#include "runtime/requests/text/vocabulary.h"

namespace penstock {

void Vocabulary::add(std::string token, uint32_t id) {
  const auto [entry, fresh] = ids_.insert_or_assign(std::move(token), id);
  if (id >= tokens_.size()) tokens_.resize(size_t{id} + 1, nullptr);
  tokens_[id] = &entry->first;
}

std::optional<uint32_t> Vocabulary::id_of(std::string_view token) const {
  const auto found = ids_.find(token);
  return found == ids_.end() ? std::nullopt : std::optional(found->second);
}

const std::string* Vocabulary::token_of(uint32_t id) const {
  return id < tokens_.size() ? tokens_[id] : nullptr;
}

}  // namespace penstock
