#include "runtime/pipeline/turn_taker.h"

#include <gtest/gtest.h>

#include <algorithm>

namespace penstock {
namespace {

/// Makes one micro-batch again and again.
class Same final : public PlanSource {
 public:
  explicit Same(proto::Plan plan) : plan_(std::move(plan)) {}
  proto::Plan plan(int) override { return plan_; }
  void take_in(int, const proto::StepResult&) override { ++taken_in; }
  bool finished_or_wait() override { return true; }
  int taken_in = 0;

 private:
  proto::Plan plan_;
};

proto::Plan rows_of(int rows, int tokens, uint32_t start) {
  proto::Plan plan;
  for (int r = 0; r < rows; ++r) {
    auto* row = plan.add_rows();
    row->set_start(start);
    for (int t = 0; t < tokens; ++t) row->add_tokens(1);
    row->mutable_sampling();
  }
  return plan;
}

/// Four layers over two stages that share the MLP of layer 1, half 3.
class Turns : public testing::Test {
 protected:
  Turns() {
    for (int half = 0; half < 8; ++half) {
      cost_.halves.push_back(1);
      cost_.cache.push_back(half % 2 == 0 ? 0.01 : 0);
      cost_.may_be_shared.push_back(half % 2 == 1);
    }
  }

  /// Of a hundred such micro-batches, those in which the earlier stage runs it.
  int64_t of_earlier(const proto::Plan& plan, const std::vector<Slowness>& slowness) {
    Same source(plan);
    TurnTaker taker(source, parse_partition("1.75,2.25", 2, cost_), cost_, slowness);
    int64_t turns = 0;
    for (int step = 0; step < 100; ++step) {
      const proto::Plan decided = taker.plan(0);
      EXPECT_EQ(decided.rows_size(), plan.rows_size());
      turns += std::count(decided.run_by_earlier().begin(), decided.run_by_earlier().end(), 3U);
    }
    return turns;
  }

  CutCost cost_;
  const std::vector<Slowness> alike_{{1, 1}, {1, 1}};
};

TEST_F(Turns, GoToTheStageThatHasLessToDo) {
  EXPECT_EQ(of_earlier(rows_of(1, 50, 0), alike_), 100) << "3 halves before it, 4 behind";
  cost_.halves[0] = 2;
  EXPECT_EQ(of_earlier(rows_of(1, 50, 0), alike_), 50);
  cost_.halves[0] = 3;
  EXPECT_EQ(of_earlier(rows_of(1, 50, 0), alike_), 0);
}

TEST_F(Turns, ComeOftenerWhereRowsWantLogits) {
  cost_.halves[0] = 3;
  cost_.head = 1.5;  // of answers, all of whose tokens want them: the later stage has more to do by then
  EXPECT_EQ(of_earlier(rows_of(1, 50, 0), alike_), 2);
  EXPECT_EQ(of_earlier(rows_of(50, 1, 0), alike_), 75);
}

TEST_F(Turns, GoToTheFasterOfTwoDevices) {
  cost_.halves[0] = 2;
  EXPECT_EQ(of_earlier(rows_of(1, 50, 0), {{1.2, 1}, {1, 1}}), 9) << "1.2 (4 + 0.09) = 4 + 0.91";
  EXPECT_EQ(of_earlier(rows_of(1, 50, 0), {{1, 1.2}, {1, 1}}), 50) << "prompts are as fast on both";
  EXPECT_EQ(of_earlier(rows_of(50, 1, 0), {{1, 1.2}, {1, 1}}), 9);
}

TEST_F(Turns, AreCountedByTheirWork) {
  // Prefills and decode steps in alternation: each kind is shared, not one left to each stage.
  class Alternating final : public PlanSource {
   public:
    proto::Plan plan(int) override { return step_++ % 2 == 0 ? rows_of(1, 512, 0) : rows_of(20, 1, 0); }
    void take_in(int, const proto::StepResult&) override {}
    bool finished_or_wait() override { return true; }

   private:
    int step_ = 0;
  };
  cost_.halves[0] = 2;
  Alternating source;
  TurnTaker taker(source, parse_partition("1.75,2.25", 2, cost_), cost_, alike_);
  int prefills = 0;
  for (int step = 0; step < 200; ++step) {
    const bool prefill = step % 2 == 0;
    if (!taker.plan(0).run_by_earlier().empty() && prefill) ++prefills;
  }
  EXPECT_NEAR(prefills, 50, 1);
}

TEST_F(Turns, WhatComesBackIsHandedOn) {
  Same source(rows_of(1, 1, 0));
  TurnTaker taker(source, parse_partition("1.75,2.25", 2, cost_), cost_, alike_);
  taker.take_in(0, {});
  EXPECT_EQ(source.taken_in, 1);
  EXPECT_TRUE(taker.finished_or_wait());
}

}  // namespace
}  // namespace penstock
