// What the preflight judges good and bad, and that what it says names the thing, the rank and the remedy.
#include <gtest/gtest.h>

#include <map>

#include "launch/preflight_checks.h"

namespace penstock {
namespace {

Check slurm_check(std::map<std::string, std::string> environment, int ranks, int hosts) {
  return check_slurm(
      [&](const char* name) {
        const auto found = environment.find(name);
        return found == environment.end() ? std::nullopt : std::optional<std::string>(found->second);
      },
      ranks, hosts);
}

bool says(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

const std::vector<std::string> kWhose{"rank 0 (a)", "rank 1 (a)", "rank 2 (b)"};

TEST(Preflight, WorldAndSlurmAgreeOnTheNumberOfRanks) {
  EXPECT_TRUE(slurm_check({}, 4, 1).good);
  EXPECT_TRUE(slurm_check({{"SLURM_JOB_ID", "7"}, {"SLURM_NTASKS", "4"}}, 4, 1).good);
  const Check fewer = slurm_check({{"SLURM_JOB_ID", "7"}, {"SLURM_NTASKS", "4"}}, 1, 1);
  EXPECT_FALSE(fewer.good);
  EXPECT_TRUE(says(fewer.detail, "expected 4 ranks (SLURM_NTASKS), found 1 rank")) << fewer.detail;
}

TEST(Preflight, TheStepsOwnCountComesBeforeTheJobs) {
  EXPECT_TRUE(
      slurm_check({{"SLURM_JOB_ID", "7"}, {"SLURM_STEP_NUM_TASKS", "2"}, {"SLURM_NTASKS", "4"}}, 2, 1).good);
}

TEST(Preflight, RanksOutsideTheJobsNodesAreNoticed) {
  const Check check =
      slurm_check({{"SLURM_JOB_ID", "7"}, {"SLURM_NTASKS", "4"}, {"SLURM_JOB_NUM_NODES", "1"}}, 4, 2);
  EXPECT_FALSE(check.good);
  EXPECT_TRUE(says(check.detail, "SLURM_JOB_NUM_NODES")) << check.detail;
}

TEST(Preflight, ARankThatSeesAnotherFileIsNamedWithWhatItSees) {
  EXPECT_TRUE(check_same_everywhere("model", kWhose, {{true, "x"}, {true, "x"}, {true, "x"}}).good);
  const Check check = check_same_everywhere("model", kWhose, {{true, "x"}, {true, "x"}, {true, "y"}});
  EXPECT_FALSE(check.good);
  EXPECT_EQ(check.detail, "rank 2 (b): expected what rank 0 finds (x), found y");
}

TEST(Preflight, RanksWithTheSameTroubleAreToldTogether) {
  const Check check = check_same_everywhere("input", kWhose, {{true, "x"}, {false, "gone"}, {false, "gone"}});
  EXPECT_FALSE(check.good);
  EXPECT_EQ(check.detail, "rank 1 (a), rank 2 (b): gone");
}

TEST(Preflight, WhenRankZeroFailsTheOthersAreNotBlamed) {
  const Check check = check_same_everywhere("input", kWhose, {{false, "gone"}, {true, "x"}, {true, "x"}});
  EXPECT_EQ(check.detail, "rank 0 (a): gone");
}

TEST(Preflight, TheOutputNeedsThreeTimesTheInput) {
  constexpr uint64_t kGiga = 1'000'000'000;
  EXPECT_TRUE(check_free_space(4 * kGiga, kGiga).good);
  EXPECT_FALSE(check_free_space(2 * kGiga, kGiga).good);
  EXPECT_FALSE(check_free_space(0, 0).good);
}

TEST(Preflight, LockedMemoryMattersWithInfiniBandOnly) {
  EXPECT_TRUE(judge_locked_memory(std::nullopt, true).good);
  EXPECT_TRUE(judge_locked_memory(65536, false).good);
  EXPECT_FALSE(judge_locked_memory(65536, true).good);
}

TEST(Preflight, SharedMemoryMattersToRanksThatShareAHost) {
  EXPECT_TRUE(judge_shared_memory(0, 1).good);
  EXPECT_FALSE(judge_shared_memory(1'000'000, 4).good);
  EXPECT_TRUE(judge_shared_memory(64'000'000, 4).good);
}

TEST(Preflight, AClockThatIsOffByMoreThanASecondIsNamed) {
  EXPECT_TRUE(check_clocks(kWhose, {{}, {0.4, 0.001}, {-0.9, 0.001}}).good);
  const Check check = check_clocks(kWhose, {{}, {0.4, 0.001}, {-3, 0.001}});
  EXPECT_FALSE(check.good);
  EXPECT_TRUE(says(check.detail, "rank 2 (b)")) << check.detail;
  // A slow network makes the measure uncertain, not the clock wrong.
  EXPECT_TRUE(check_clocks(kWhose, {{}, {}, {1.2, 0.5}}).good);
}

TEST(Preflight, TheTableAndTheMessageNameWhatFailed) {
  const std::vector<Check> checks{
      {"world", true, "4 ranks"}, {"clocks", false, "late"}, {"input", false, "gone"}};
  EXPECT_EQ(table_of(checks), "world   ok    4 ranks\nclocks  FAIL  late\ninput   FAIL  gone\n");
  EXPECT_EQ(failed_of(checks), "clocks, input");
  EXPECT_EQ(failed_of({checks[0]}), "");
}

}  // namespace
}  // namespace penstock
