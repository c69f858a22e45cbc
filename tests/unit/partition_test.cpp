#include "runtime/pipeline/partition.h"

#include <gtest/gtest.h>

#include "runtime/base/error.h"
#include "runtime/pipeline/cut_cost.h"

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

CutCost even_cost(int64_t layers, bool shared = false) {
  CutCost cost{0, std::vector<double>(static_cast<size_t>(2 * layers), 1.0), 0};
  for (int64_t half = 0; half < 2 * layers; ++half) cost.may_be_shared.push_back(shared && half % 2 == 1);
  return cost;
}

std::string refusal(const std::string& flag, int stages, const CutCost& cost) {
  try {
    parse_partition(flag, stages, cost);
  } catch (const UsageError& e) {
    return e.what();
  }
  return "taken";
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
  const CutCost even = even_cost(18);
  EXPECT_EQ(counts(parse_partition("0,6,6,6", 4, even)), (std::vector<int64_t>{0, 12, 12, 12}));
  for (const char* wrong :
       {"6,6,6", "0,6,6,7", "a,b", "1,", "-1,7,6,6", "99999999999999999999,0,0,0", ",", "6,,6,6", "0.5,6,6,6",
        "0.25,6,6,5.75", "6.500,6,5.5,0", ".5,6,6,5.5", "6.,6,6,0"})
    EXPECT_THROW(parse_partition(wrong, 4, even), UsageError) << wrong;
}

TEST(Partition, ACutMayLieWithinALayer) {
  const CutCost even = even_cost(18);
  const Partition p = parse_partition("0.5,5.5,6.5,5.5", 4, even);
  expect_whole(p, 18);
  EXPECT_EQ(p[0].text(), "embedding + attention 0");
  EXPECT_EQ(p[1].text(), "MLP 0 + layers 1-5");
  EXPECT_EQ(p[2].text(), "layers 6-11 + attention 12");
  EXPECT_EQ(p[3].text(), "MLP 12 + layers 13-17 + head");
  EXPECT_EQ(parse_partition("0.5,0.5,17,0", 4, even)[1].text(), "MLP 0");
}

TEST(Partition, TwoStagesMayShareAnMlp) {
  const CutCost cost = even_cost(18, true);
  const Partition p = parse_partition("0,6.75,5.25,6", 4, cost);
  EXPECT_EQ(p[1].text(), "layers 0-5 + attention 6 + MLP 6 in turns");
  EXPECT_EQ(p[2].text(), "MLP 6 in turns + layers 7-11");
  EXPECT_EQ(p[2].first_half, 13);
  EXPECT_EQ(p[1].first_half + p[1].halves, 14) << "both hold it";
  EXPECT_EQ(flag_text(p), "0,6.75,5.25,6");
  EXPECT_EQ(parse_partition("5.5,0.25,12.25,0", 4, cost)[1].text(), "MLP 5 in turns");
}

TEST(Partition, WhatOnlyOneStageCanHoldIsNamed) {
  EXPECT_NE(refusal("0,6.25,5.75,6", 4, even_cost(18, true)).find("the attention of layer 6"),
            std::string::npos);
  EXPECT_NE(refusal("0,6.75,5.25,6", 4, even_cost(18, false)).find("the MLP of layer 6, which has experts"),
            std::string::npos);
  EXPECT_NE(refusal("0,6.75,0,11.25", 4, even_cost(18, true)).find("at most two stages"), std::string::npos);
}

}  // namespace
}  // namespace penstock
