#include "runtime/pipeline/partition.h"

#include <gtest/gtest.h>

#include "runtime/base/error.h"

namespace penstock {
namespace {

std::vector<int64_t> counts(const Partition& p) {
  std::vector<int64_t> c;
  for (const StageCut& cut : p) c.push_back(cut.halves);
  return c;
}

void expect_whole(const Partition& p, int64_t layers) {
  int64_t next = 0;
  for (size_t s = 0; s < p.size(); ++s) {
    EXPECT_EQ(p[s].first_half, next);
    next += p[s].halves;
    EXPECT_EQ(p[s].embedding, s == 0);
    EXPECT_EQ(p[s].head, s + 1 == p.size());
  }
  EXPECT_EQ(next, 2 * layers);
}

TEST(Partition, FourStagesHoldTheEmbeddingAndAThirdOfTheLayersEach) {
  const Partition p = default_partition(18, 4);
  EXPECT_EQ(counts(p), (std::vector<int64_t>{0, 12, 12, 12}));
  EXPECT_EQ(p[0].text(), "embedding");
  EXPECT_EQ(p[2].text(), "layers 6-11");
  EXPECT_EQ(p[3].text(), "layers 12-17 + head");
}

TEST(Partition, EveryLayerHasOneHomeForAnyCountOfStages) {
  for (int64_t layers : {1, 2, 7, 18, 61})
    for (int stages = 1; stages <= layers + 2; ++stages)
      expect_whole(default_partition(layers, stages), layers);
}

TEST(Partition, TwoStagesShareTheLayers) {
  EXPECT_EQ(counts(default_partition(7, 2)), (std::vector<int64_t>{8, 6}));
}

TEST(Partition, MoreStagesThanLayersAndTwoAreRefusedWithTheNumbers) {
  EXPECT_NO_THROW(default_partition(18, 20));
  try {
    default_partition(18, 21);
    FAIL();
  } catch (const UsageError& e) {
    EXPECT_NE(std::string(e.what()).find("18 layers into 21 stages"), std::string::npos) << e.what();
  }
}

TEST(Partition, CutByHandMustAddUp) {
  const CutCost even{0, std::vector<double>(36, 1.0), 0};
  EXPECT_EQ(counts(parse_partition("0,6,6,6", 4, even)), (std::vector<int64_t>{0, 12, 12, 12}));
  for (const char* wrong : {"6,6,6", "0,6,6,7", "a,b", "1,", "-1,7,6,6", "99999999999999999999,0,0,0", ",",
                            "6,,6,6", "0.5,6,6,6", "0.25,6,6,5.75", "6.50,6,5.5,0", ".5,6,6,5.5"})
    EXPECT_THROW(parse_partition(wrong, 4, even), UsageError) << wrong;
}

TEST(Partition, ACutMayLieWithinALayer) {
  const CutCost even{0, std::vector<double>(36, 1.0), 0};
  const Partition p = parse_partition("0.5,5.5,6.5,5.5", 4, even);
  expect_whole(p, 18);
  EXPECT_EQ(p[0].text(), "embedding + attention 0");
  EXPECT_EQ(p[1].text(), "MLP 0 + layers 1-5");
  EXPECT_EQ(p[2].text(), "layers 6-11 + attention 12");
  EXPECT_EQ(p[3].text(), "MLP 12 + layers 13-17 + head");
  EXPECT_EQ(parse_partition("0.5,0.5,17,0", 4, even)[1].text(), "MLP 0");
}

TEST(Partition, AutomaticCutIsNoDearerThanAnyOther) {
  // Every cut of a small model, tried one by one.
  const CutCost cost{0.4, {1, 3, 1, 1, 2, 5, 1, 1}, 2.5};
  double best = 1e9;
  for (int64_t a = 0; a <= 8; ++a)
    for (int64_t b = 0; a + b <= 8; ++b)
      best = std::min(best, imbalance(partition_by_halves(4, 3, {a, b, 8 - a - b}), cost));
  const Partition found = partition_by_cost(3, cost);
  expect_whole(found, 4);
  EXPECT_DOUBLE_EQ(imbalance(found, cost), best);
}

TEST(Partition, AutomaticCutLeavesLayersWholeWhereThatCostsNothing) {
  // 6 and 4 + 1 are no dearer than 5 and 5 + 1.
  const Partition found = partition_by_cost(2, {0, std::vector<double>(10, 1.0), 1});
  EXPECT_EQ(counts(found), (std::vector<int64_t>{6, 4}));
}

TEST(Partition, ASlowStageGetsLessByItsSlowness) {
  const CutCost cost{0, std::vector<double>(40, 1.0), 0};
  const Partition found = partition_by_cost(4, cost, {1, 1.5, 1, 1});
  expect_whole(found, 20);
  EXPECT_EQ(counts(found), (std::vector<int64_t>{11, 7, 11, 11}));
  EXPECT_EQ(flag_text(found), "5.5,3.5,5.5,5.5");
  EXPECT_EQ(counts(parse_partition(flag_text(found), 4, cost)), counts(found));
}

}  // namespace
}  // namespace penstock
