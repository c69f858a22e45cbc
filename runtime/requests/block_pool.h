// The paged KV cache's blocks, handed out by rank 0 alone: every stage holds the same number and uses the
// same table. Plain judgement; not thread-safe.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

namespace penstock {

class BlockPool {
 public:
  explicit BlockPool(int64_t blocks);
  int64_t total() const { return total_; }
  /// Blocks that are not withheld.
  int64_t usable() const { return total_ - withheld_; }
  /// Blocks that may be handed out now.
  int64_t free() const { return std::max<int64_t>(0, static_cast<int64_t>(free_.size()) - withheld_); }
  /// From now on `count` of all blocks are not handed out; those in use stay so until they are released.
  void withhold(int64_t count);
  double used_share() const;
  /// Appends `count` blocks to `table`, or leaves it and returns false when fewer are free.
  bool allocate(int64_t count, std::vector<uint32_t>& table);
  /// Takes back all blocks of `table` and empties it.
  void release(std::vector<uint32_t>& table);

 private:
  int64_t total_;
  int64_t withheld_ = 0;
  std::vector<uint32_t> free_;  // last in, first out: a block just freed is likely still in a cache
};

}  // namespace penstock
