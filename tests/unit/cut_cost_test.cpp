#include "runtime/pipeline/cut_cost.h"

#include <gtest/gtest.h>

#include <cmath>
#include <random>

#include "runtime/base/error.h"

namespace penstock {
namespace {

void expect_whole(const Partition& p, int64_t layers) {
  int64_t halves = 0;
  for (const StageCut& cut : p) halves += cut.halves - (cut.first_in_turns ? 1 : 0);
  EXPECT_EQ(halves, 2 * layers);
}

/// Attentions of 0.5 and MLPs of 1.5 that may be shared.
CutCost layers_of_two(int64_t layers) {
  CutCost cost;
  for (int64_t half = 0; half < 2 * layers; ++half) {
    cost.halves.push_back(half % 2 == 0 ? 0.5 : 1.5);
    cost.may_be_shared.push_back(half % 2 == 1);
  }
  return cost;
}

int shared_mlps(const Partition& partition) {
  int shared = 0;
  for (const StageCut& cut : partition) shared += cut.last_in_turns ? 1 : 0;
  return shared;
}

double load_of(const std::vector<StageWork>& work, const EvenTurns& turns, size_t s) {
  return work[s].own + turns.of_earlier[s] * work[s].last_in_turns +
         (s > 0 ? (1 - turns.of_earlier[s - 1]) * work[s].first_in_turns : 0);
}

TEST(CutCost, AutomaticCutIsNoDearerThanAnyOther) {
  // Every cut of a small model, tried one by one.
  const CutCost cost{0.4, {1, 3, 1, 1, 2, 5, 1, 1}, 2.5};
  double best = 1e9;
  for (int64_t a = 0; a <= 8; ++a)
    for (int64_t b = 0; a + b <= 8; ++b)
      best =
          std::min(best, imbalance(partition_by_shares({a * kHalf, b * kHalf, (8 - a - b) * kHalf}), cost));
  const Partition found = partition_by_cost(3, cost);
  expect_whole(found, 4);
  EXPECT_DOUBLE_EQ(imbalance(found, cost), best);
}

TEST(CutCost, AutomaticCutLeavesLayersWholeWhereThatCostsNothing) {
  // 6 and 4 + 1 are no dearer than 5 and 5 + 1.
  const Partition found = partition_by_cost(2, {0, std::vector<double>(10, 1.0), 1});
  EXPECT_EQ(flag_text(found), "3,2");
}

TEST(CutCost, ASlowStageGetsLessByItsSlowness) {
  const CutCost cost{0, std::vector<double>(40, 1.0), 0};
  const Partition found = partition_by_cost(4, cost, {1, 1.5, 1, 1});
  expect_whole(found, 20);
  EXPECT_EQ(flag_text(found), "5.5,3.5,5.5,5.5");
  EXPECT_EQ(parse_partition(flag_text(found), 4, cost), found);
}

TEST(CutCost, EvenTurnsMakeTheDearestStageAsCheapAsItCanBe) {
  const std::vector<StageWork> work{{8, 0, 2}, {8, 2, 2}, {9, 2, 0}};
  const EvenTurns turns = even_turns(work);  // 29 in all over three stages
  EXPECT_NEAR(turns.dearest, 29.0 / 3, 1e-6);
  for (size_t s = 0; s < work.size(); ++s) EXPECT_NEAR(load_of(work, turns, s), 29.0 / 3, 1e-6);
  EXPECT_NEAR(even_turns({{8, 0, 2}, {14, 2, 0}}).of_earlier[0], 1, 1e-6) << "the later one has enough to do";
  EXPECT_NEAR(even_turns({{14, 0, 2}, {8, 2, 0}}).of_earlier[0], 0, 1e-6);
  EXPECT_EQ(even_turns({{3, 0, 0}, {4, 0, 0}}).dearest, 4);
}

TEST(CutCost, NoOtherSharesOfTurnsAreCheaper) {
  std::mt19937 random(5);
  std::uniform_real_distribution<double> some(0, 3);
  for (int round = 0; round < 200; ++round) {
    std::vector<StageWork> work(3);
    for (StageWork& w : work) w.own = 5 + some(random);
    const double first = some(random), second = some(random);
    const double slower = 1 + some(random) / 10;
    work[0].last_in_turns = first;
    work[1].first_in_turns = slower * first;
    work[1].last_in_turns = slower * second;
    work[2].first_in_turns = second;
    const double dearest = even_turns(work).dearest;
    for (double a = 0; a <= 1; a += 0.05)
      for (double b = 0; b <= 1; b += 0.05) {
        const EvenTurns other{0, {a, b, 0}};
        const double most =
            std::max({load_of(work, other, 0), load_of(work, other, 1), load_of(work, other, 2)});
        EXPECT_GE(most, dearest - 1e-6);
      }
  }
}

TEST(CutCost, AutomaticCutSharesMlpsWhereWholeOnesAreUneven) {
  CutCost cost = layers_of_two(8);
  cost.head = 2.6;
  const Partition found = partition_by_cost(4, cost);
  EXPECT_LT(imbalance(found, cost), 1.01) << flag_text(found);
  EXPECT_GT(shared_mlps(found), 0);
  cost.may_be_shared.clear();
  EXPECT_GT(imbalance(partition_by_cost(4, cost), cost), 1.05);
}

TEST(CutCost, AutomaticCutSharesNothingForNextToNothing) {
  CutCost cost = layers_of_two(320);
  cost.head = 0.9;
  EXPECT_EQ(shared_mlps(partition_by_cost(2, cost)), 0);
}

TEST(CutCost, AutomaticCutHasRoomToTurnBetweenPhasesThatDiffer) {
  CutCost cost = layers_of_two(32);
  cost.head = 5;
  cost.phases = {{1, 0, 0}, {1, 1, 0}};  // an even cut of the one is uneven for the other
  const Partition found = partition_by_cost(4, cost);
  EXPECT_GT(shared_mlps(found), 0);
  cost.may_be_shared.clear();
  const Partition unshared = partition_by_cost(4, cost);
  cost.may_be_shared = layers_of_two(32).may_be_shared;
  EXPECT_LT(imbalance(found, cost), imbalance(unshared, cost) - 0.02) << flag_text(found);
}

TEST(CutCost, AutomaticCutFindsWhatNoMoveOfAFewCutsFinds) {
  // Llama 8B over 13 GPUs: in the cheapest unshared cut nearly all stages are as dear as the dearest.
  CutCost cost;
  for (int half = 0; half < 64; ++half) {
    cost.halves.push_back(half % 2 == 0 ? 84 : 352);
    cost.cache.push_back(half % 2 == 0 ? 1.02 : 0);
    cost.may_be_shared.push_back(half % 2 == 1);
  }
  cost.head = 1307;
  cost.phases = {{1, 0, 0}, {1, 1, 225}};
  EXPECT_LT(imbalance(partition_by_cost(13, cost), cost), 1.1);
}

TEST(CutCost, AShortCacheIsSpreadEvenly) {
  CutCost cost = layers_of_two(32);
  cost.cache.assign(64, 0);
  for (size_t half = 0; half < 64; half += 2) cost.cache[half] = 0.01;
  cost.head = 3;
  cost.phases = {{1, 0, 0}, {1, 1, 10}};
  EXPECT_GT(partition_by_cost(2, cost)[0].halves, 32) << "the other one has the head";
  cost.cache_is_short = true;
  EXPECT_EQ(flag_text(partition_by_cost(2, cost)), "16,16");
}

TEST(CutCost, ManyStagesAreCutInNoTime) {
  CutCost cost = layers_of_two(126);
  cost.head = 3;
  cost.phases = {{1, 0, 0}, {1, 1, 0}};
  for (const int stages : {16, 64}) {
    const Partition found = partition_by_cost(stages, cost);
    expect_whole(found, 126);
    EXPECT_LT(imbalance(found, cost), stages == 16 ? 1.03 : 1.25) << flag_text(found);
  }
}

}  // namespace
}  // namespace penstock
