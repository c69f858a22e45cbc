#include "runtime/pipeline/schedule.h"

#include <gtest/gtest.h>

#include "runtime/base/error.h"

namespace penstock {
namespace {

TEST(Schedule, NoRankWaitsForever) {
  for (int stages = 1; stages <= 6; ++stages)
    for (int micro_batches = 1; micro_batches <= 2 * stages + 1; ++micro_batches)
      EXPECT_NO_THROW(validate(make_generation_schedule(stages, micro_batches), 4))
          << stages << " " << micro_batches;
}

TEST(Schedule, LookAheadNeedsAsManyMicroBatchesAsStages) {
  EXPECT_TRUE(make_generation_schedule(4, 4).look_ahead);
  EXPECT_FALSE(make_generation_schedule(4, 3).look_ahead);
}

TEST(Schedule, LookAheadThatHangsIsFoundAndNamed) {
  // One micro-batch in flight: its forward waits for the plan of the next, which rank 0 makes only after it.
  Schedule schedule = make_generation_schedule(3, 1);
  schedule.look_ahead = true;
  for (int s = 1; s < 3; ++s)
    schedule.programs[static_cast<size_t>(s)].warm_up = {{s, ActionKind::post_receive, 0}};
  try {
    validate(schedule);
    FAIL();
  } catch (const Error& e) {
    EXPECT_NE(std::string(e.what()).find("wait for ever at 0B0 1P0 2P0"), std::string::npos) << e.what();
  }
}

TEST(Schedule, AReceiveWithoutItsSendIsFound) {
  Schedule schedule = make_generation_schedule(3, 4);
  std::erase_if(schedule.programs[1].steady,
                [](const Action& a) { return a.kind == ActionKind::send && a.slot == 2; });
  EXPECT_THROW(validate(schedule), Error);
}

TEST(Schedule, SlotsOutOfOrderAreFound) {
  Schedule schedule = make_generation_schedule(2, 3);
  std::swap(schedule.programs[1].steady[1].slot, schedule.programs[1].steady[4].slot);
  EXPECT_THROW(validate(schedule), Error);
}

TEST(Schedule, SteadyStateOfTheFirstStageAlternatesOneBackwardAndOneForward) {
  const Schedule schedule = make_generation_schedule(4, 5);
  std::string text;
  for (const Action& a : schedule.programs[0].steady)
    if (a.kind != ActionKind::send) text += a.text() + " ";
  EXPECT_EQ(text, "0B0 0F0 0B1 0F1 0B2 0F2 0B3 0F3 0B4 0F4 ");
}

TEST(Schedule, OneMoreMicroBatchThanStagesFillsThePipelineDespiteHops) {
  for (int stages : {2, 4, 8}) {
    const TimingModel timing{std::vector<double>(static_cast<size_t>(stages), 1.0), 0.05, 0.05};
    EXPECT_LT(predicted_bubble(make_generation_schedule(stages, stages + 1), timing), 0.001) << stages;
    EXPECT_GT(predicted_bubble(make_generation_schedule(stages, stages), timing), 0.02) << stages;
  }
}

TEST(Schedule, OneMicroBatchKeepsOneStageInSBusy) {
  const TimingModel timing{{1, 1, 1, 1}};
  EXPECT_NEAR(predicted_bubble(make_generation_schedule(4, 1), timing), 0.75, 1e-9);
}

TEST(Schedule, StagesThatShareProcessorsTakeTurns) {
  TimingModel timing{{1, 1, 1}};
  timing.processors = 2;
  for (const Span& a : simulate(make_generation_schedule(3, 6), timing, 4)) {
    int at_once = 0;
    for (const Span& b : simulate(make_generation_schedule(3, 6), timing, 4))
      at_once += b.begin <= a.begin && a.begin < b.end ? 1 : 0;
    EXPECT_LE(at_once, 2);
  }
}

TEST(Schedule, GridShowsWhichMicroBatchRunsWhen) {
  EXPECT_EQ(grid(make_generation_schedule(3, 2), 7),
            "stage 0  01.01.0\n"
            "stage 1  .01.01.\n"
            "stage 2  ..01.01\n");
}

}  // namespace
}  // namespace penstock
