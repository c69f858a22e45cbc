#include "runtime/requests/block_pool.h"

#include <gtest/gtest.h>

#include <set>

namespace penstock {
namespace {

TEST(BlockPool, HandsOutEachBlockOnce) {
  BlockPool pool(10);
  std::vector<uint32_t> a;
  std::vector<uint32_t> b;
  ASSERT_TRUE(pool.allocate(6, a));
  EXPECT_FALSE(pool.allocate(5, b));
  EXPECT_TRUE(b.empty());
  ASSERT_TRUE(pool.allocate(4, b));
  std::set<uint32_t> all(a.begin(), a.end());
  all.insert(b.begin(), b.end());
  EXPECT_EQ(all.size(), 10U);
  EXPECT_EQ(pool.used_share(), 1);
  pool.release(a);
  EXPECT_EQ(pool.free(), 6);
}

TEST(BlockPool, HandsOutNoBlockThatIsWithheld) {
  BlockPool pool(10);
  std::vector<uint32_t> a;
  ASSERT_TRUE(pool.allocate(6, a));
  pool.withhold(5);
  EXPECT_EQ(pool.free(), 0);
  EXPECT_DOUBLE_EQ(pool.used_share(), 0.6);
  pool.release(a);
  EXPECT_EQ(pool.free(), 5);
  EXPECT_FALSE(pool.allocate(6, a));
  EXPECT_TRUE(pool.allocate(5, a));
}

}  // namespace
}  // namespace penstock
