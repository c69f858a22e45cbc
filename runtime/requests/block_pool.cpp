#include "runtime/requests/block_pool.h"

#include "runtime/base/error.h"

namespace penstock {

BlockPool::BlockPool(int64_t blocks) : total_(blocks) {
  ensure(blocks > 0 && blocks <= INT32_MAX, "a block pool has 1 to 2^31 blocks");
  free_.reserve(static_cast<size_t>(blocks));
  for (int64_t b = blocks; b-- > 0;) free_.push_back(static_cast<uint32_t>(b));
}

double BlockPool::used_share() const {
  return 1 - static_cast<double>(free_.size()) / static_cast<double>(total_);
}

void BlockPool::withhold(int64_t count) {
  ensure(count >= 0 && count < total_, "some blocks are left to hand out");
  withheld_ = count;
}

bool BlockPool::allocate(int64_t count, std::vector<uint32_t>& table) {
  if (count > free()) return false;
  for (; count > 0; --count) {
    table.push_back(free_.back());
    free_.pop_back();
  }
  return true;
}

void BlockPool::release(std::vector<uint32_t>& table) {
  free_.insert(free_.end(), table.rbegin(), table.rend());
  table.clear();
  ensure(static_cast<int64_t>(free_.size()) <= total_, "a block was freed twice");
}

}  // namespace penstock
