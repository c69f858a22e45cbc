#include "launch/placement.h"

#include <gtest/gtest.h>

#include "runtime/pipeline/cut_cost.h"

namespace penstock {
namespace {

const std::vector<StageCut> kFourStages = default_partition(18, 4);  // the first holds the embedding alone

TEST(Placement, TheEmbeddingStaysOnItsHostUnlessToldOtherwise) {
  using enum DeviceKind;
  EXPECT_EQ(parse_devices("cuda", kFourStages), (std::vector{cpu, cuda, cuda, cuda}));
  EXPECT_EQ(parse_devices("cuda", default_partition(18, 1)), std::vector{cuda});
  EXPECT_EQ(parse_devices("cpu", kFourStages), (std::vector{cpu, cpu, cpu, cpu}));
  EXPECT_EQ(parse_devices("cuda,cuda,cpu,cuda", kFourStages), (std::vector{cuda, cuda, cpu, cuda}));
}

TEST(Placement, ADeviceListThatFitsNoStagesIsRefused) {
  for (const char* flag : {"", "gpu", "cuda,cpu", "cuda,cpu,,cuda", "cuda,cpu,cuda,cuda,cuda"})
    EXPECT_THROW(parse_devices(flag, kFourStages), UsageError) << flag;
}

TEST(Placement, BesideGpusACpuIsSlow) {
  EXPECT_TRUE(slowness_of_devices("cpu").empty());
  EXPECT_TRUE(slowness_of_devices("cuda,cuda").empty());
  const std::vector<double> mixed = slowness_of_devices("cpu,cuda,cuda");
  ASSERT_EQ(mixed.size(), 3U);
  EXPECT_EQ(mixed[1], 1);
  const CutCost cost{0, std::vector<double>(64, 1.0), 2};
  EXPECT_EQ(flag_text(parse_partition("auto", 3, cost, mixed)), "0,16.5,15.5");
}

TEST(Placement, RanksOfAHostTakeDifferentGpusWhileThereAreEnough) {
  const std::vector<std::string> two{"A", "B"};
  const std::vector<VisibleGpus> visible{{"n1", {}}, {"n1", two}, {"n1", two}, {"n2", two}, {"n1", two}};
  const std::vector<int> chosen = choose_gpus(visible);
  EXPECT_EQ(chosen, (std::vector{-1, 0, 1, 0, 0}));
  EXPECT_EQ(sharers_of_gpus(visible, chosen), (std::vector{0, 2, 1, 1, 2}));
}

TEST(Placement, ALauncherThatShowsEachRankItsOwnGpuIsFollowed) {
  const std::vector<VisibleGpus> visible{{"n1", {"A"}}, {"n1", {"B"}}, {"n1", {"B", "C"}}};
  const std::vector<int> chosen = choose_gpus(visible);
  EXPECT_EQ(chosen, (std::vector{0, 0, 1}));
  EXPECT_EQ(sharers_of_gpus(visible, chosen), (std::vector{1, 1, 1}));
}

}  // namespace
}  // namespace penstock
