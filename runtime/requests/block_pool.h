// The paged KV cache's blocks, handed out by rank 0 alone: every stage holds the same number and uses the
// same table. Plain judgement; not thread-safe.
#pragma once

#include <cstdint>
#include <vector>

namespace penstock {

class BlockPool {
 public:
  explicit BlockPool(int64_t blocks);
  int64_t total() const { return total_; }
  int64_t free() const { return static_cast<int64_t>(free_.size()); }
  double used_share() const;
  /// Appends `count` blocks to `table`, or leaves it and returns false when fewer are free.
  bool allocate(int64_t count, std::vector<uint32_t>& table);
  /// Takes back all blocks of `table` and empties it.
  void release(std::vector<uint32_t>& table);

 private:
  int64_t total_;
  std::vector<uint32_t> free_;  // last in, first out: a block just freed is likely still in a cache
};

}  // namespace penstock
