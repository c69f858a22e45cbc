#include "launch/warm_up.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <set>

#include "tests/unit/pretended_gpu.h"

namespace penstock {
namespace {

/// Looks at what it is given.
class WatchingStage final : public test::EmptyStage {
 public:
  WatchingStage() : EmptyStage(false, false, 32) {}
  DrawingPtr start(const proto::Plan& plan, TensorView in_TD, TensorView) override {
    int64_t tokens = 0;
    for (const auto& row : plan.rows()) {
      tokens += row.tokens_size();
      ids.insert(row.tokens().begin(), row.tokens().end());
    }
    EXPECT_EQ(in_TD.dim(0), tokens);
    largest = std::max(largest, tokens);
    EXPECT_EQ(plan.run_by_earlier_size(), 1) << "the MLP that it runs in turns, too";
    EXPECT_EQ(plan.run_by_earlier(0), 5U);
    const float* const in = in_TD.as<float>();
    for (int64_t i = 0; i < tokens * hidden_size(); ++i) {
      EXPECT_TRUE(std::isfinite(in[i]));
      values.insert(in[i]);
    }
    for (int64_t d = 0; d < hidden_size(); ++d)  // the last row too
      last_row_differs_from_zero = last_row_differs_from_zero || in[(tokens - 1) * hidden_size() + d] != 0;
    return nullptr;
  }
  int64_t largest = 0;
  std::set<float> values;
  std::set<uint32_t> ids;
  bool last_row_differs_from_zero = false;
};

TEST(WarmUp, RunsAStageOverManyDifferentHiddenStatesUpToTheLargestMicroBatch) {
  StageSpec spec;
  spec.cut = {false, 2, 4, false, false, true};
  spec.max_model_len = 64;
  spec.max_tokens = 200;
  spec.max_rows = 20;
  const auto device = make_cpu_device();
  WatchingStage stage;
  warm_up(stage, *device, spec, 50);
  EXPECT_EQ(stage.largest, 200);
  EXPECT_GT(stage.values.size(), 1000U) << "kernels are chosen by their speed, which depends on the values";
  EXPECT_LT(*stage.values.begin(), -1);
  EXPECT_GT(*stage.values.rbegin(), 1);
  EXPECT_EQ(stage.ids.size(), 50U);
  EXPECT_EQ(*stage.ids.rbegin(), 49U);
  EXPECT_TRUE(stage.last_row_differs_from_zero);
}

}  // namespace
}  // namespace penstock
