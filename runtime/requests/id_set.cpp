#include "runtime/requests/id_set.h"

#include "runtime/base/rng.h"

namespace penstock {

size_t IdSet::place(const std::vector<Key>& keys, const Key& key) {
  const size_t mask = keys.size() - 1;
  size_t at = key.a & mask;
  while (keys[at].b != 0 && (keys[at].a != key.a || keys[at].b != key.b)) at = (at + 1) & mask;
  return at;
}

void IdSet::grow() {
  std::vector<Key> larger(keys_.empty() ? 1024 : keys_.size() * 2);
  for (const Key& key : keys_)
    if (key.b != 0) larger[place(larger, key)] = key;
  keys_ = std::move(larger);
}

bool IdSet::insert(std::string_view id) {
  if (4 * (used_ + 1) > 3 * keys_.size()) grow();
  constexpr uint64_t kSecondSeed = 0x9E3779B97F4A7C15ULL;
  const Key key{stable_hash(id), stable_hash(id, kSecondSeed) | 1};
  const size_t at = place(keys_, key);
  if (keys_[at].b != 0) return false;
  keys_[at] = key;
  ++used_;
  return true;
}

}  // namespace penstock
