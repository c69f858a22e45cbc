#include "runtime/device/memory_pool.h"

#include <gtest/gtest.h>

#include <random>
#include <vector>

namespace penstock {
namespace {

constexpr size_t kUnit = MemoryPool::kSegmentUnit;

/// Addresses that nobody touches, and how much of them is taken.
class FakeDevice {
 public:
  explicit FakeDevice(size_t limit) : limit_(limit) {}
  MemoryPool pool() {
    return {[this](size_t bytes) -> void* {
              if (bytes > limit_ - taken_) return nullptr;
              auto* address = reinterpret_cast<char*>(next_);
              next_ += bytes + kUnit;
              sizes_[address] = bytes;
              taken_ += bytes;
              return address;
            },
            [this](void* memory) {
              taken_ -= sizes_.at(static_cast<char*>(memory));
              sizes_.erase(static_cast<char*>(memory));
            }};
  }
  size_t taken() const { return taken_; }

 private:
  size_t limit_;
  size_t taken_ = 0;
  uintptr_t next_ = kUnit;
  std::map<char*, size_t> sizes_;
};

TEST(MemoryPool, KeepsWhatComesBackForTheNextWhoAsks) {
  FakeDevice device(100 * kUnit);
  MemoryPool pool = device.pool();
  void* a = pool.allocate(5 * kUnit);
  EXPECT_EQ(device.taken(), 5 * kUnit);
  pool.free(a);
  EXPECT_EQ(pool.use().in_use, 0U);
  EXPECT_EQ(pool.allocate(5 * kUnit), a);
  EXPECT_EQ(device.taken(), 5 * kUnit);
}

TEST(MemoryPool, SmallPiecesShareASegmentAndAreAligned) {
  FakeDevice device(100 * kUnit);
  MemoryPool pool = device.pool();
  for (int i = 0; i < 100; ++i)
    EXPECT_EQ(reinterpret_cast<uintptr_t>(pool.allocate(1000)) % MemoryPool::kAlignment, 0U);
  EXPECT_EQ(device.taken(), kUnit);
}

TEST(MemoryPool, PiecesThatFitBadlyShareSegmentsAndLeaveLittleUnused) {
  FakeDevice device(2000 * kUnit);
  MemoryPool pool = device.pool();
  for (int expert = 0; expert < 64; ++expert) {  // of DeepSeek-V2-Lite: gate and up, down
    ASSERT_NE(pool.allocate(size_t{2} * 1408 * 2048 * 2), nullptr);
    ASSERT_NE(pool.allocate(size_t{2048} * 1408 * 2), nullptr);
  }
  EXPECT_EQ(pool.use().in_use, 64 * size_t{3} * 1408 * 2048 * 2);
  EXPECT_LE(pool.use().reserved - pool.use().in_use, pool.use().in_use / 32);
}

TEST(MemoryPool, WhereThereIsNoRoomForSeveralAPieceComesAlone) {
  FakeDevice device(3 * kUnit);
  MemoryPool pool = device.pool();
  EXPECT_NE(pool.allocate(2 * kUnit + kUnit / 2), nullptr);
  EXPECT_EQ(device.taken(), 3 * kUnit);
}

TEST(MemoryPool, JoinsNeighboursOfOneSegmentOnly) {
  FakeDevice device(100 * kUnit);
  MemoryPool pool = device.pool();
  void* const whole = pool.allocate(4 * kUnit);
  pool.free(whole);
  void* a = pool.allocate(kUnit);
  void* b = pool.allocate(kUnit);
  void* c = pool.allocate(2 * kUnit);
  void* const other = pool.allocate(kUnit);
  pool.free(a);
  pool.free(c);
  EXPECT_DOUBLE_EQ(pool.use().fragmentation(), 1.0 / 3);
  pool.free(b);
  EXPECT_EQ(pool.use().largest_free, 4 * kUnit);
  EXPECT_DOUBLE_EQ(pool.use().fragmentation(), 0);
  pool.free(other);
  EXPECT_EQ(pool.use().largest_free, 4 * kUnit);
  EXPECT_EQ(pool.use().reserved, 5 * kUnit);
}

TEST(MemoryPool, GivesUnusedSegmentsBackBeforeItSaysThereIsNoMore) {
  FakeDevice device(10 * kUnit);
  MemoryPool pool = device.pool();
  void* const small = pool.allocate(1);
  pool.free(pool.allocate(8 * kUnit));
  EXPECT_EQ(pool.allocate(10 * kUnit), nullptr);  // one unit is in use
  EXPECT_NE(pool.allocate(9 * kUnit), nullptr);
  EXPECT_EQ(device.taken(), 10 * kUnit);
  EXPECT_EQ(pool.allocate(~size_t{0}), nullptr);
  pool.free(small);
}

TEST(MemoryPool, PiecesNeverOverlapAndAllMemoryReturns) {
  FakeDevice device(10000 * kUnit);
  {
    MemoryPool pool = device.pool();
    std::mt19937 random(7);
    std::map<char*, size_t> held;
    for (int i = 0; i < 20000; ++i) {
      if (held.size() < 60 || random() % 2 == 0) {
        const size_t bytes = 1 + random() % (random() % 4 == 0 ? 3 * kUnit : 5000);
        auto* p = static_cast<char*>(pool.allocate(bytes));
        ASSERT_NE(p, nullptr);
        const auto after = held.lower_bound(p);
        ASSERT_TRUE(after == held.end() || p + bytes <= after->first);
        ASSERT_TRUE(after == held.begin() || std::prev(after)->first + std::prev(after)->second <= p);
        held.emplace(p, bytes);
      } else {
        const auto it = std::next(held.begin(), static_cast<std::ptrdiff_t>(random() % held.size()));
        pool.free(it->first);
        held.erase(it);
      }
      ASSERT_LE(pool.use().in_use, pool.use().reserved);
    }
    for (const auto& [p, bytes] : held) pool.free(p);
    EXPECT_EQ(pool.use().in_use, 0U);
    pool.trim();
    EXPECT_EQ(device.taken(), 0U);
    pool.allocate(1);
  }
  EXPECT_EQ(device.taken(), 0U);
}

}  // namespace
}  // namespace penstock
