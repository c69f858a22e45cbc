// Several replicas at one desk, over a loopback world: rank 0 and the first stages of the others, without
// stages.
#include "runtime/pipeline/plan_desk.h"

#include <gtest/gtest.h>

#include <chrono>
#include <string>
#include <thread>

#include "tests/unit/ranks.h"

namespace penstock {
namespace {

using testing_ranks::run_ranks;

/// Hands out micro-batches of one row each, as many as it is given for a replica; more may come until it is
/// closed. Any thread: the desk's calls come one at a time, the test's own are under a mutex.
class CountingPlanner final : public Planner {
 public:
  explicit CountingPlanner(int replicas) : left_(static_cast<size_t>(replicas), 0) {}

  void give(int replica, int plans) {
    const std::lock_guard lock(mutex_);
    left_[static_cast<size_t>(replica)] += plans;
  }
  void close() {
    const std::lock_guard lock(mutex_);
    closed_ = true;
  }
  int taken_in() {
    const std::lock_guard lock(mutex_);
    return taken_in_;
  }
  void fail_at(int replica) { failing_ = replica; }

  proto::Plan plan(int replica, int slot) override {
    const OneAtATime one(busy_);
    if (replica == failing_) throw Error("no plan for replica " + std::to_string(replica));
    const std::lock_guard lock(mutex_);
    proto::Plan plan;
    if (left_[static_cast<size_t>(replica)]-- > 0)
      plan.add_rows()->set_sequence(static_cast<uint64_t>(100 * replica + slot));
    else
      left_[static_cast<size_t>(replica)] = 0;
    return plan;
  }
  void take_in(int replica, int slot, const proto::StepResult& result) override {
    const OneAtATime one(busy_);
    EXPECT_EQ(result.tokens(0).sequence(), static_cast<uint64_t>(100 * replica + slot));
    const std::lock_guard lock(mutex_);
    ++taken_in_;
  }
  std::optional<bool> finished(int replica) override {
    const OneAtATime one(busy_);
    const std::lock_guard lock(mutex_);
    if (left_[static_cast<size_t>(replica)] > 0) return false;
    return closed_ ? std::optional(true) : std::nullopt;
  }

 private:
  struct OneAtATime {
    explicit OneAtATime(std::atomic<int>& busy) : busy_(busy) { EXPECT_EQ(busy_++, 0); }
    ~OneAtATime() { --busy_; }
    std::atomic<int>& busy_;
  };
  std::atomic<int> busy_{0};
  std::mutex mutex_;
  std::vector<int> left_;
  int taken_in_ = 0;
  int failing_ = -1;
  bool closed_ = false;
};

/// What a runner does with one slot after the other, without stages: returns how many micro-batches it ran.
int play(PlanSource& source, int slots) {
  int ran = 0;
  for (int slot = 0;; slot = (slot + 1) % slots) {
    const proto::Plan plan = source.plan(slot);
    if (plan.rows().empty()) {
      if (source.finished_or_wait()) return ran;
      continue;
    }
    proto::StepResult result;
    result.add_tokens()->set_sequence(plan.rows(0).sequence());
    source.take_in(slot, result);
    ++ran;
  }
}

TEST(PlanDesk, EveryReplicaGetsItsOwnPlansAndTheDeskTheirTokens) {
  const Layout layout{3, 2};
  const auto worlds = make_loopback_world(layout.ranks());
  CountingPlanner planner(3);
  planner.give(0, 50);
  planner.give(1, 200);
  planner.give(2, 1);
  planner.close();
  run_ranks(worlds, [&](World& world) {
    if (world.rank() == 0) {
      PlanDesk desk(planner, world, layout);
      EXPECT_EQ(play(desk, 3), 50);
      desk.finish();
      EXPECT_EQ(planner.taken_in(), 251);
    } else if (layout.stage_of(world.rank()) == 0) {
      RemotePlans plans(world);
      EXPECT_EQ(play(plans, 3), world.rank() == 2 ? 200 : 1);
    }
    world.finish();
  });
}

/// Whoever waits: rank 0 itself, or another.
class PlanDeskWaiting : public testing::TestWithParam<int> {};

TEST_P(PlanDeskWaiting, AReplicaWithNothingToDoSleepsUntilThereIsNews) {
  const Layout layout{2, 1};
  const int idle = GetParam();
  const auto worlds = make_loopback_world(layout.ranks());
  CountingPlanner planner(2);
  planner.give(1 - idle, 500);
  std::atomic<int> ran_by_idle{-1};
  run_ranks(worlds, [&](World& world) {
    if (world.rank() == 1) {
      RemotePlans plans(world);
      const int ran = play(plans, 2);
      if (idle == 1) ran_by_idle = ran;
    } else {
      PlanDesk desk(planner, world, layout);
      std::thread giving([&] {
        while (planner.taken_in() < 500) std::this_thread::sleep_for(std::chrono::milliseconds(1));
        EXPECT_EQ(ran_by_idle, -1) << "it waits";
        planner.give(idle, 7);
        desk.tell();
        while (planner.taken_in() < 507) std::this_thread::sleep_for(std::chrono::milliseconds(1));
        planner.close();
        desk.tell();
      });
      const int ran = play(desk, 2);
      if (idle == 0) ran_by_idle = ran;
      desk.finish();
      giving.join();
    }
    world.finish();
  });
  EXPECT_EQ(ran_by_idle, 7);
}
INSTANTIATE_TEST_SUITE_P(EitherReplica, PlanDeskWaiting, testing::Values(0, 1));

TEST(PlanDesk, WhatBreaksForAnotherReplicaEndsTheJobEvenWhileRank0Waits) {
  const Layout layout{2, 1};
  const auto worlds = make_loopback_world(layout.ranks());
  CountingPlanner planner(2);
  planner.fail_at(1);
  try {
    run_ranks(worlds, [&](World& world) {
      if (world.rank() == 1) {
        RemotePlans plans(world);
        EXPECT_THROW(play(plans, 2), WorldAborted);
      } else {
        PlanDesk desk(planner, world, layout);
        play(desk, 2);
        FAIL() << "it has not heard of it";
      }
    });
    FAIL();
  } catch (const Error& e) {
    EXPECT_STREQ(e.what(), "no plan for replica 1");
  }
}

TEST(PlanDesk, ADeadRankEndsEveryWait) {
  const Layout layout{3, 1};
  const auto worlds = make_loopback_world(layout.ranks());
  CountingPlanner planner(3);
  run_ranks(worlds, [&](World& world) {
    if (world.rank() == 2) {
      std::this_thread::sleep_for(std::chrono::milliseconds(50));
      world.abort("a card fell off");
    } else if (world.rank() == 1) {
      RemotePlans plans(world);
      EXPECT_THROW(play(plans, 2), WorldAborted);
    } else {
      PlanDesk desk(planner, world, layout);
      EXPECT_THROW(play(desk, 2), WorldAborted);
    }
  });
}

TEST(PlanDesk, ADeskThatIsGivenUpDoesNotWaitForTheOthers) {
  const auto worlds = make_loopback_world(2);
  CountingPlanner planner(2);
  { PlanDesk desk(planner, *worlds[0], {2, 1}); }
}

}  // namespace
}  // namespace penstock
