#include "launch/stage_speed.h"

#include <gtest/gtest.h>

#include <chrono>
#include <set>
#include <thread>

#include "tests/unit/pretended_gpu.h"

namespace penstock {
namespace {

/// Takes so long for a token of a prompt, and for one of an answer.
class SleepingStage final : public test::EmptyStage {
 public:
  SleepingStage(std::chrono::microseconds prompt, std::chrono::microseconds answer)
      : EmptyStage(false, true, 8), prompt_(prompt), answer_(answer) {}
  DrawingPtr start(const proto::Plan& plan, TensorView, TensorView) override {
    for (const auto& row : plan.rows())
      std::this_thread::sleep_for(row.tokens_size() == 1 ? answer_ : row.tokens_size() * prompt_);
    for (const uint32_t half : plan.run_by_earlier()) turns.insert(half);
    for (const auto& row : plan.rows()) {
      EXPECT_LE(row.start() + static_cast<uint32_t>(row.tokens_size()), 50U);
      for (const uint32_t block : row.blocks()) EXPECT_LT(block, 7U);
    }
    return nullptr;
  }
  std::set<uint32_t> turns;

 private:
  std::chrono::microseconds prompt_, answer_;
};

TEST(StageSpeed, IsMeasuredForPromptsAndAnswersWithEverythingThatTheStageHolds) {
  JobShape shape;
  shape.layout = {1, 3};
  shape.cost.halves.assign(12, 1.0);
  shape.cost.may_be_shared.assign(12, true);
  shape.partition = parse_partition("1.75,2,2.25", 3, shape.cost);
  shape.schedule = make_generation_schedule(3, 4);
  shape.max_num_seqs = 40;
  shape.config.vocab_size = 50;
  StageSpec spec;
  spec.cut = shape.partition[1];  // halves 3 to 7, the first and the last of them in turns
  spec.max_model_len = 50;        // no whole number of blocks
  spec.max_tokens = 128;
  spec.max_rows = 10;
  const auto device = make_cpu_device();
  SleepingStage stage(std::chrono::microseconds(100), std::chrono::microseconds(1000));
  const Slowness slowness = measure_slowness(stage, *device, spec, shape, 7, 1);
  EXPECT_EQ(stage.turns, std::set<uint32_t>{7}) << "its own turn with the stage behind, and with that before";
  EXPECT_GE(slowness.prompts, 100e-6 / 5);
  EXPECT_GE(slowness.answers, 1000e-6 / 5);
  EXPECT_GT(slowness.answers, 3 * slowness.prompts);
}

TEST(StageSpeed, OfAStageThatCostsNothingIsNotMeasured) {
  JobShape shape;
  shape.layout = {1, 3};
  shape.cost.halves.assign(12, 1.0);
  shape.partition = default_partition(6, 3);
  shape.schedule = make_generation_schedule(3, 4);
  shape.max_num_seqs = 40;
  shape.config.vocab_size = 50;
  StageSpec spec;
  spec.cut = shape.partition[0];
  spec.max_model_len = spec.max_tokens = 64;
  spec.max_rows = 10;
  const auto device = make_cpu_device();
  SleepingStage stage(std::chrono::seconds(1), std::chrono::seconds(1));
  const Slowness slowness = measure_slowness(stage, *device, spec, shape, 7, 0);
  EXPECT_EQ(slowness.prompts, 0);
  EXPECT_EQ(slowness.answers, 0);
}

}  // namespace
}  // namespace penstock
