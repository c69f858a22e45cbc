// Which custom_ids a file has used: 16 bytes of hash a row, so that millions of rows stay small. One thread.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>
#include <vector>

namespace penstock {

class IdSet {
 public:
  /// False when the id was there already. Ids are told apart by 128 bits of hash.
  bool insert(std::string_view id);

 private:
  struct Key {
    uint64_t a = 0;
    uint64_t b = 0;  // never 0 in a used place
  };
  void grow();
  static size_t place(const std::vector<Key>& keys, const Key& key);

  std::vector<Key> keys_;  // open addressing, a power of two, at most three quarters full
  size_t used_ = 0;
};

}  // namespace penstock
