// The judgements of the comm floor that are plain code: who is dead, who is missing, what the launcher said.
#include <gtest/gtest.h>
#include <unistd.h>

#include <map>

#include "runtime/comm/arrival.h"
#include "runtime/comm/gather.h"
#include "runtime/comm/host.h"
#include "runtime/comm/launch_environment.h"
#include "runtime/comm/liveness.h"
#include "runtime/comm/nccl_channel.h"

namespace penstock {
namespace {

using namespace std::chrono_literals;

/// A clock moved by hand and two watched peers, of which `gone` may be dead.
class LivenessTest : public testing::Test {
 protected:
  Liveness::Clock::time_point now{};
  int gone = -1;
  Liveness liveness{{1, 2}, 10s, [this](int rank) { return rank == gone; }, now};

  /// Time passes in heartbeats; the ranks in `alive` are heard.
  std::optional<Liveness::Death> pass(std::chrono::milliseconds time, const std::vector<int>& alive) {
    for (auto end = now + time; now < end;) {
      now += kHeartbeatPeriod;
      for (const int rank : alive) liveness.heard(rank, now);
      if (auto death = liveness.check(now)) return death;
    }
    return std::nullopt;
  }
};

TEST_F(LivenessTest, WhoIsHeardLives) {
  EXPECT_FALSE(pass(60s, {1, 2}));
}

TEST_F(LivenessTest, SilenceBeyondTheDeadlineIsDeath) {
  EXPECT_FALSE(pass(10s, {1}));
  const auto death = pass(1s, {1});
  ASSERT_TRUE(death);
  EXPECT_EQ(death->rank, 2);
  EXPECT_EQ(death->why, "no sign of life for 10 s");
}

TEST_F(LivenessTest, AProcessThatIsGoneIsDeadAfterOneMissedHeartbeat) {
  gone = 1;
  const auto death = pass(2s, {2});
  ASSERT_TRUE(death);
  EXPECT_EQ(death->rank, 1);
  EXPECT_EQ(death->why, "its process is gone");
  EXPECT_LE(now - Liveness::Clock::time_point{}, 2 * kHeartbeatPeriod);
}

TEST_F(LivenessTest, AMachineThatStoodStillBlamesNobody) {
  EXPECT_FALSE(pass(5s, {1, 2}));
  now += 3600s;  // suspended: no check in between
  EXPECT_FALSE(liveness.check(now));
  EXPECT_FALSE(pass(5s, {1, 2}));
}

TEST(ProcessAlive, KnowsThisOneAndNotOneThatCannotBe) {
  EXPECT_TRUE(process_alive(getpid()));
  EXPECT_FALSE(process_alive(int64_t{1} << 30));
}

TEST(GatherRules, AFastRankMayStartTheNextRoundBeforeASlowOneEndedThis) {
  Gather gather(3);
  EXPECT_FALSE(gather.add(1, "b1"));
  EXPECT_EQ(gather.missing(), (std::vector<int>{0, 2}));
  EXPECT_FALSE(gather.add(1, "b2"));
  EXPECT_FALSE(gather.add(0, "a1"));
  EXPECT_EQ(gather.add(2, "c1"), (std::vector<std::string>{"a1", "b1", "c1"}));
  EXPECT_FALSE(gather.add(0, "a2"));
  EXPECT_EQ(gather.add(2, "c2"), (std::vector<std::string>{"a2", "b2", "c2"}));
}

TEST(ArrivalMarks, ShowWhoHasComeAndLetOneSpeakForAll) {
  const std::string job = "world_rules_test-" + std::to_string(getpid());
  const ArrivalMark zero(job, 0);
  {
    const ArrivalMark one(job, 1);
    EXPECT_TRUE(zero.seen(1));
    EXPECT_FALSE(zero.seen(2));
    EXPECT_TRUE(one.speak_for_all(3));
    EXPECT_FALSE(zero.speak_for_all(3));
  }
  EXPECT_FALSE(zero.seen(1));
}

LaunchEnvironment environment(const std::map<std::string, std::string>& variables) {
  return read_launch_environment([&](const char* name) {
    const auto found = variables.find(name);
    return found == variables.end() ? std::nullopt : std::optional(found->second);
  });
}

TEST(LaunchEnvironmentRules, AProcessStartedByHandIsNoWorld) {
  EXPECT_EQ(environment({}).size, 0);
}

TEST(LaunchEnvironmentRules, WhatMpirunSaysComesBeforeTheAllocationAroundIt) {
  const auto found = environment({{"SLURM_NTASKS", "8"},
                                  {"OMPI_COMM_WORLD_SIZE", "4"},
                                  {"OMPI_COMM_WORLD_RANK", "3"},
                                  {"OMPI_COMM_WORLD_LOCAL_SIZE", "2"},
                                  {"PMIX_NAMESPACE", "job7"}});
  EXPECT_EQ(found.size, 4);
  EXPECT_EQ(found.rank, 3);
  EXPECT_EQ(found.local_size, 2);
  EXPECT_EQ(found.job, "job7");
  EXPECT_TRUE(found.has_meeting_point);
}

TEST(LaunchEnvironmentRules, SrunOfTwoByThreeTasksIsRead) {
  const auto found =
      environment({{"SLURM_NTASKS", "6"}, {"SLURM_PROCID", "5"}, {"SLURM_STEP_TASKS_PER_NODE", "3(x2)"}});
  EXPECT_EQ(found.size, 6);
  EXPECT_EQ(found.rank, 5);
  EXPECT_EQ(found.local_size, 3);
  EXPECT_FALSE(found.has_meeting_point);
}

TEST(LaunchEnvironmentRules, OneRankSaysWhySingletonsAreRefusedAndTheOthersAreSilent) {
  auto found = environment({{"SLURM_NTASKS", "4"}});
  EXPECT_NO_THROW(refuse_singletons(found, 4));
  try {
    refuse_singletons(found, 1);
    ADD_FAILURE() << "accepted";
  } catch (const UsageError& e) {
    EXPECT_NE(std::string(e.what()).find("SLURM_NTASKS=4"), std::string::npos) << e.what();
    EXPECT_NE(std::string(e.what()).find("--mpi"), std::string::npos) << e.what();
  }
  found.rank = 2;
  EXPECT_THROW(refuse_singletons(found, 1), WorldAborted);
}

TEST(NcclStandIn, SaysThatTheProgramWasBuiltWithoutIt) {
  try {
    make_nccl_id();
    GTEST_SKIP() << "this build has NCCL";
  } catch (const UsageError& e) {
    if (std::string(e.what()).find("built without NCCL") == std::string::npos) GTEST_SKIP() << e.what();
  }
  const auto worlds = make_loopback_world(1);
  const auto device = make_cpu_device();
  EXPECT_THROW(make_nccl_sender(*worlds[0], *device, "", 0), UsageError);
  EXPECT_THROW(make_nccl_receiver(*worlds[0], *device, "", 0), UsageError);
}

}  // namespace
}  // namespace penstock
