#include "runtime/requests/cache_forecast.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <random>

namespace penstock {
namespace {

/// Step by step: what all hold, in whole blocks, while each grows by a token a step until it ends.
int64_t most_held(const std::vector<CacheGrowth>& sequences, int64_t block_size) {
  int64_t most = 0;
  bool any = true;
  for (int64_t step = 0; any; ++step) {
    int64_t held = 0;
    any = false;
    for (const CacheGrowth& s : sequences)
      if (step <= s.to_come) {
        held += (s.held + step + block_size - 1) / block_size;
        any = true;
      }
    most = std::max(most, held);
  }
  return most;
}

TEST(CacheForecast, TakesNoSequenceThatWouldFindNoRoomAndOfBlocksOfOneTokenEveryOther) {
  std::mt19937 rng(3);
  for (const int64_t block_size : {1, 8}) {
    int refused = 0, needlessly = 0;
    for (int round = 0; round < 300; ++round) {
      const auto any = [&rng] {
        return CacheGrowth{static_cast<int64_t>(rng() % 60), 1 + static_cast<int64_t>(rng() % 40)};
      };
      std::vector<CacheGrowth> taken(rng() % 6);
      std::generate(taken.begin(), taken.end(), any);
      const int64_t blocks = most_held(taken, block_size) + static_cast<int64_t>(rng() % 200) / block_size;
      CacheForecast forecast(blocks, block_size, taken);
      for (int i = 0; i < 5; ++i) {
        std::vector<CacheGrowth> with = taken;
        with.push_back(any());
        const bool fits = most_held(with, block_size) <= blocks;
        const bool added = forecast.add(with.back());
        EXPECT_TRUE(fits || !added);
        if (added) taken = with;
        refused += added ? 0 : 1;
        needlessly += fits && !added ? 1 : 0;
      }
    }
    EXPECT_GT(refused, 100);
    EXPECT_LT(refused, 1400);
    EXPECT_LE(needlessly, block_size == 1 ? 0 : 400);
  }
}

TEST(CacheForecast, ACacheMadeForSoManyWholeSequencesTakesAllOfThem) {
  CacheForecast forecast(64 * 16, 16, {});
  for (int i = 0; i < 64; ++i) EXPECT_TRUE(forecast.add({127, 128})) << i;
  EXPECT_FALSE(forecast.add({127, 128}));
}

TEST(CacheForecast, OneThatEndsSoonMayShareItsRoomWithOneThatGrowsLater) {
  // At step 10 the first frees 50; until then the second has grown by 10 only.
  CacheForecast forecast(100, 1, {{40, 10}});
  EXPECT_TRUE(forecast.add({20, 80}));
  EXPECT_FALSE(forecast.add({1, 100}));
}

TEST(AnswerLengths, StartLowAndFollowWhatHasEnded) {
  AnswerLengths lengths;
  EXPECT_EQ(lengths.expected_to_come(0, 1000), 250);
  EXPECT_EQ(lengths.expected_to_come(999, 1000), 1);
  for (int i = 0; i < 1000; ++i) lengths.ended(800, 1000);
  EXPECT_NEAR(static_cast<double>(lengths.expected_to_come(0, 100)), 80, 1);
  EXPECT_NEAR(static_cast<double>(lengths.expected_to_come(50, 100)), 40, 1);
  EXPECT_EQ(lengths.expected_to_come(0, 1), 1);
}

}  // namespace
}  // namespace penstock
