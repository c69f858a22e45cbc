// Choosing experts, multiplying with them, putting their results together.
#include <numeric>

#include "tests/unit/kernel_testing.h"

namespace penstock::testing {
namespace {

struct Routed {
  Routed(int64_t tokens, int64_t chosen, int64_t experts)
      : memory(RoutingView::bytes(tokens, chosen, experts) / 4),
        view(RoutingView::over(memory.data(), tokens, chosen, experts)) {}
  std::vector<int32_t> memory;
  RoutingView view;

  /// The expert of each pair of a token, in routing order.
  std::vector<int64_t> experts_of(int64_t token) const {
    std::vector<int64_t> experts;
    for (int64_t pair = token * view.chosen; pair < (token + 1) * view.chosen; ++pair) {
      int64_t e = 0;
      while (view.expert_start_E1[e + 1] <= view.slot_TC[pair]) ++e;
      experts.push_back(e);
    }
    return experts;
  }
};

class ExpertsTest : public OnEveryKernelTable {
 protected:
  Tensor logits(const std::vector<float>& values) {
    Tensor t = device_->tensor(DType::f32, {1, static_cast<int64_t>(values.size())});
    std::copy(values.begin(), values.end(), t.view.as<float>());
    return t;
  }
};

TEST_P(ExpertsTest, ChoosesAndWeighsAsTheReference) {
  const auto fast = ops(2);
  const auto reference = make_reference_ops(*device_);
  const Tensor correction = values_.random(DType::f32, {24}, 0.3F);
  const GateView gates[] = {
      {},
      {false, 4, 2, false, {}, false, 16.0F},
      {true, 1, 1, true, correction, true, 2.5F},
      {true, 8, 4, true, correction, true, 2.5F},
      {true, 6, 3, true, correction, false, 0.8F},
  };
  constexpr int64_t kTokens = 50;
  for (const GateView& gate : gates) {
    const Tensor logits_TE = values_.random(DType::f32, {kTokens, 24}, 4);
    Routed found(kTokens, 5, 24);
    Routed expected(kTokens, 5, 24);
    fast->route(found.view, logits_TE, gate);
    reference->route(expected.view, logits_TE, gate);
    for (int64_t pair = 0; pair < kTokens * 5; ++pair) {
      ASSERT_EQ(found.view.slot_TC[pair], expected.view.slot_TC[pair])
          << gate.groups << " groups, pair " << pair;
      ASSERT_EQ(found.view.token_S[pair], expected.view.token_S[pair]);
      ASSERT_NEAR(found.view.weights_TC[pair], expected.view.weights_TC[pair],
                  1e-5F * expected.view.weights_TC[pair]);
    }
    for (int64_t e = 0; e <= 24; ++e)
      ASSERT_EQ(found.view.expert_start_E1[e], expected.view.expert_start_E1[e]);
  }
}

TEST_P(ExpertsTest, OfEqualScoresTheLowerNumberIsChosenFirst) {
  Routed routed(1, 3, 6);
  ops(1)->route(routed.view, logits({1, 2, 2, 0, 2, 1}), {});
  EXPECT_EQ(routed.experts_of(0), (std::vector<int64_t>{1, 2, 4}));
}

TEST_P(ExpertsTest, TheCorrectionChoosesButDoesNotWeigh) {
  Tensor correction = device_->tensor(DType::f32, {4});
  const float values[] = {0, 0, 5, 0};
  std::copy_n(values, 4, correction.view.as<float>());
  Routed routed(1, 2, 4);
  ops(1)->route(routed.view, logits({2, 0, -2, 0}), {true, 1, 1, true, correction, false, 1});
  EXPECT_EQ(routed.experts_of(0), (std::vector<int64_t>{2, 0}));
  EXPECT_NEAR(routed.view.weights_TC[0], 1 / (1 + std::exp(2.0F)), 1e-6F);
  EXPECT_NEAR(routed.view.weights_TC[1], 1 / (1 + std::exp(-2.0F)), 1e-6F);
}

TEST_P(ExpertsTest, ExpertsOutsideTheBestGroupsAreNotChosen) {
  // The best expert stands in group 0, but group 1 has the better pair.
  const Tensor logits_E = logits({3, -9, 2, 2, -9, -9});
  Routed by_pair(1, 2, 6);
  ops(1)->route(by_pair.view, logits_E, {true, 3, 1, true, {}, false, 1});
  EXPECT_EQ(by_pair.experts_of(0), (std::vector<int64_t>{2, 3}));
  Routed by_best(1, 2, 6);
  ops(1)->route(by_best.view, logits_E, {false, 3, 1, false, {}, false, 1});
  EXPECT_EQ(by_best.experts_of(0), (std::vector<int64_t>{0, 1}));
}

TEST_P(ExpertsTest, ANegativeExpertOfTheBestGroupBeatsAllOutside) {
  Tensor correction = device_->tensor(DType::f32, {4});
  const float values[] = {2, -2, -1, -1};
  std::copy_n(values, 4, correction.view.as<float>());
  Routed routed(1, 2, 4);
  ops(1)->route(routed.view, logits({0, 0, 0, 0}), {true, 2, 1, true, correction, false, 1});
  EXPECT_EQ(routed.experts_of(0), (std::vector<int64_t>{0, 1}))
      << "0.5 - 2 is less than 0, but 0.5 - 1 is not in the group";
}

/// x + what the experts give, for tokens [first, first + count) of h.
Tensor run_experts(Ops& ops, Device& device, const TensorView& h_TD, const TensorView& logits_TE,
                   const std::vector<const Matrix*>& experts) {
  const int64_t tokens = h_TD.dim(0);
  const int64_t d = h_TD.dim(1);
  Routed routed(tokens, 3, logits_TE.dim(1));
  ops.route(routed.view, logits_TE, {});
  const Tensor h_SD = device.tensor(h_TD.dtype, {tokens * 3, d});
  const Tensor y_SD = device.tensor(DType::f32, {tokens * 3, d});
  Tensor x_TD = device.tensor(DType::f32, {tokens, d});
  std::fill_n(x_TD.view.as<float>(), tokens * d, 0.5F);
  ops.gather_rows(h_SD, h_TD, routed.view.token_S);
  ops.matmul_by_expert(y_SD, h_SD, experts, routed.view);
  ops.combine_experts(x_TD, y_SD, routed.view);
  return x_TD;
}

TEST_P(ExpertsTest, ATokensBitsDoNotDependOnItsCompanyAndMatchTheReference) {
  const auto fast = ops(2);
  const auto reference = make_reference_ops(*device_);
  constexpr int64_t kTokens = 40;
  for (const DType dtype : {DType::f32, DType::bf16}) {
    const Tensor h_TD = values_.random(dtype, {kTokens, 33});
    const Tensor logits_TE = values_.random(DType::f32, {kTokens, 8}, 3);
    std::vector<std::unique_ptr<Matrix>> mine, theirs;
    std::vector<const Matrix*> my_pointers, their_pointers;
    for (int e = 0; e < 8; ++e) {
      const Tensor w = values_.random(DType::f32, {33, 33});
      mine.push_back(fast->make_matrix(33, 33, dtype));
      fast->load_rows(*mine.back(), 0, w);
      my_pointers.push_back(mine.back().get());
      theirs.push_back(reference->make_matrix(33, 33, dtype));
      reference->load_rows(*theirs.back(), 0, w);
      their_pointers.push_back(theirs.back().get());
    }
    const Tensor together = run_experts(*fast, *device_, h_TD, logits_TE, my_pointers);
    expect_close(together, run_experts(*reference, *device_, h_TD, logits_TE, their_pointers), 1e-4, 1e-5);
    for (int64_t t = 0; t < kTokens; ++t) {
      const Tensor alone =
          run_experts(*fast, *device_, h_TD.view.rows(t, 1), logits_TE.view.rows(t, 1), my_pointers);
      ASSERT_TRUE(same_bits(alone, together.view.rows(t, 1))) << "token " << t;
    }
  }
}

TEST_P(ExpertsTest, ExpertsThatNobodyChoseNeedNoWeights) {
  const auto fast = ops(1);
  const Tensor w = values_.random(DType::f32, {4, 4});
  const auto matrix = fast->make_matrix(4, 4, DType::f32);
  fast->load_rows(*matrix, 0, w);
  const Tensor h_TD = values_.random(DType::f32, {1, 4});
  const Tensor logits_E = logits({9, 8, 7, 0, 0});
  const Tensor x = run_experts(*fast, *device_, h_TD, logits_E,
                               {matrix.get(), matrix.get(), matrix.get(), nullptr, nullptr});
  EXPECT_TRUE(std::isfinite(at(x, 0)));
  EXPECT_THROW(
      run_experts(*fast, *device_, h_TD, logits_E, {matrix.get(), nullptr, matrix.get(), nullptr, nullptr}),
      Error);
}

INSTANTIATE_TEST_SUITE_P(Kernels, ExpertsTest, ::testing::ValuesIn(cpu::available_kernels()), kernel_name);

}  // namespace
}  // namespace penstock::testing
