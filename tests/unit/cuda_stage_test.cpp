// Whole stages on a GPU: what recorded decode steps must not change, and what a long job must not use up.
#include <gtest/gtest.h>

#include <random>

#include "tests/unit/cuda_fixtures.h"
#include "tests/unit/stage_fixtures.h"

namespace penstock::test {
namespace {

class CudaStage : public CudaTest {
 protected:
  void SetUp() override {
    CudaTest::SetUp();
    if (!gpu_) return;
    config_ = load_model_config(own_models() / "tiny-qwen3");
    weights_ = make_dummy_weights(3);
  }
  /// From here on all layers but the first have experts, as DeepSeek-V3's do.
  void mix_experts() {
    const GateConfig gate{GateConfig::Score::sigmoid, 16, 4, 4, 2, true, true, true, 2.5F};
    for (size_t l = 1; l < config_.layers.size(); ++l) config_.layers[l].mlp = MoeConfig{gate, 24, 48, false};
  }
  Chain chain(const Partition& partition, const Limits& limits) {
    return {config_, *weights_, partition, limits, *gpu_, *ops_};
  }

  void expect_recorded_steps_give_the_same();

  std::vector<std::vector<int32_t>> prompts(size_t count) {
    std::vector<std::vector<int32_t>> prompts(count);
    for (auto& prompt : prompts)
      for (size_t i = 0, n = 1 + random_() % 60; i < n; ++i)
        prompt.push_back(static_cast<int32_t>(random_() % static_cast<uint32_t>(config_.vocab_size)));
    return prompts;
  }

  ModelConfig config_;
  std::unique_ptr<WeightSource> weights_;
};

void expect_same(const std::vector<std::vector<Sampled>>& a, const std::vector<std::vector<Sampled>>& b) {
  ASSERT_EQ(a.size(), b.size());
  for (size_t r = 0; r < a.size(); ++r) {
    ASSERT_EQ(a[r].size(), b[r].size());
    for (size_t i = 0; i < a[r].size(); ++i) {
      ASSERT_EQ(a[r][i].token, b[r][i].token) << "row " << r << ", token " << i;
      ASSERT_EQ(std::memcmp(&a[r][i].logprob, &b[r][i].logprob, sizeof(float)), 0)
          << "row " << r << ", token " << i;
    }
  }
}

void CudaStage::expect_recorded_steps_give_the_same() {
  const Partition whole = uncut(config_);
  struct Format {
    DType dtype;
    std::optional<DType> kv;
  };
  for (const auto& [dtype, kv] : {Format{DType::f32, {}}, Format{DType::bf16, {}},
                                  Format{DType::bf16, DType::e4m3}, Format{DType::bf16, DType::i8}}) {
    const Limits limits{dtype, 512, 16, 512, 16, ExpertLoading::eager, kv};
    const auto asked = prompts(11);
    Chain together = chain(whole, limits);
    const auto answers = generate(together, asked, 80, 512);
    std::vector<std::vector<Sampled>> alone;
    for (const auto& prompt : asked) {
      Chain one = chain(whole, limits);
      // In chunks of one token: prefill steps of a row that is not sampled are asked for, not replayed.
      alone.push_back(generate(one, {prompt}, 80, 1).front());
    }
    expect_same(answers, alone);
    Chain in_three = chain(cut_in_three(config_), limits);
    expect_same(answers, generate(in_three, asked, 80, 512));
  }
}

TEST_F(CudaStage, RecordedStepsGiveARowTheBitsThatItHasAlone) {
  expect_recorded_steps_give_the_same();
}

TEST_F(CudaStage, SoTheyDoWhereTokensTakeExperts) {
  mix_experts();
  expect_recorded_steps_give_the_same();
}

TEST_F(CudaStage, ExpertsGiveWhatTheyGiveOnACpu) {
  mix_experts();
  const Partition whole = uncut(config_);
  const Limits limits{DType::f32, 512, 16, 512, 16};
  std::vector<std::vector<int32_t>> asked(9);
  for (size_t r = 0; r < asked.size(); ++r)
    for (size_t i = 0; i < 5 * r + 1; ++i)
      asked[r].push_back(
          static_cast<int32_t>((i * i * 37 + r * 11) % static_cast<size_t>(config_.vocab_size)));
  const auto host_ops = make_cpu_ops(*host_, 1);
  Chain here = chain(whole, limits);
  Chain there(config_, *weights_, whole, limits, *host_, *host_ops);
  const auto found = generate(here, asked, 1, 512);
  const auto expected = generate(there, asked, 1, 512);
  for (size_t r = 0; r < asked.size(); ++r) {
    ASSERT_EQ(found[r][0].token, expected[r][0].token) << "row " << r;
    ASSERT_NEAR(found[r][0].logprob, expected[r][0].logprob, 1e-4) << "row " << r;
  }
}

TEST_F(CudaStage, AStepToFullPrecisionGivesTheBitsOfACacheThatAlwaysHadIt) {
  const Partition whole = uncut(config_);
  const auto asked = prompts(5);
  Limits limits{DType::bf16, 512, 16, 512, 16};
  Chain full = chain(whole, limits);
  const auto expected = generate(full, asked, 40, 512);
  for (const DType kv : {DType::e4m3, DType::i8}) {
    limits.kv = kv;
    Chain narrow = chain(whole, limits);
    generate(narrow, asked, 40, 512);  // decode steps over the narrow cache are recorded
    EXPECT_GT(rounding_so_far().error, 0);
    narrow.stage(0).allocate_full_precision_cache(narrow.blocks());
    expect_same(generate(narrow, asked, 40, 512), expected);
    EXPECT_EQ(rounding_so_far().kept, 0);
  }
}

TEST_F(CudaStage, TenThousandStepsLeaveDeviceMemoryFlat) {
  Chain chain_ = chain(uncut(config_), {DType::bf16, 1024, 16, 512, 64});
  const auto step = [&](int i) {  // every size class comes in the first thousand
    proto::Plan plan;
    const int rows = 1 + i % 64;
    for (int r = 0; r < rows; ++r) {
      const int32_t token = i % 100;
      want_logits(
          add_row(plan, chain_, static_cast<uint64_t>(r), (i * 37 + r * 11) % 1000, std::span(&token, 1)),
          i % 5 == 0 ? 2 : -1);
    }
    chain_.forward(plan);
  };
  for (int i = 0; i < 1000; ++i) step(i);
  gpu_->synchronize();
  const size_t free = gpu_->memory().free;
  const MemoryUse use = *gpu_->memory_use();
  for (int i = 1000; i < 10'000; ++i) step(i);
  gpu_->synchronize();
  EXPECT_EQ(gpu_->memory().free, free);
  EXPECT_EQ(gpu_->memory_use()->in_use, use.in_use);
  EXPECT_EQ(gpu_->memory_use()->reserved, use.reserved);
}

}  // namespace
}  // namespace penstock::test
