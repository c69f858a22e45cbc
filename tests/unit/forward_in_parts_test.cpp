// A stage that runs out of memory computes its micro-batch in parts, with the same bits.
#include "runtime/pipeline/forward_in_parts.h"

#include <gtest/gtest.h>

#include <cstring>
#include <thread>
#include <utility>

#include "runtime/metrics/guard.h"
#include "runtime/metrics/job_metrics.h"
#include "runtime/pipeline/runner.h"
#include "tests/unit/stage_fixtures.h"

namespace penstock {
namespace {

using test::add_row;
using test::Chain;
using test::want_logits;

/// A stage whose working memory holds `room` tokens at once, and fails in the middle of a forward that has
/// more.
class ScarceStage final : public Stage {
 public:
  ScarceStage(Stage& stage, int64_t room) : stage_(stage), room_(room) {}
  int64_t hidden_size() const override { return stage_.hidden_size(); }
  bool is_first() const override { return stage_.is_first(); }
  bool is_last() const override { return stage_.is_last(); }
  size_t weight_bytes() const override { return stage_.weight_bytes(); }
  size_t kv_bytes_per_block() const override { return stage_.kv_bytes_per_block(); }
  void allocate_cache(int64_t blocks) override { stage_.allocate_cache(blocks); }
  void allocate_full_precision_cache(int64_t blocks) override {
    stage_.allocate_full_precision_cache(blocks);
  }
  CacheRounding take_cache_rounding() override { return stage_.take_cache_rounding(); }
  DrawingPtr start(const proto::Plan& plan, TensorView in_TD, TensorView out_TD) override {
    int64_t tokens = 0;
    for (const auto& row : plan.rows()) tokens += row.tokens_size();
    DrawingPtr drawing = stage_.start(plan, in_TD, out_TD);  // its cache is written already
    if (tokens > room_) throw OutOfMemory("out of memory: no room for " + std::to_string(tokens) + " tokens");
    return drawing;
  }

 private:
  Stage& stage_;
  int64_t room_;
};

class ForwardInParts : public testing::Test {
 protected:
  ForwardInParts() {
    config_.vocab_size = 50;
    config_.hidden_size = 24;
    config_.max_position_embeddings = 64;
    config_.rms_norm_eps = 1e-6F;
    const GqaConfig attention{4, 2, 6, true, true, true};
    config_.rope = {10000, attention.head_dim, RopeDefault{}};
    config_.layers.assign(4, LayerConfig{attention, DenseMlpConfig{40, true}});
    chain_ =
        std::make_unique<Chain>(config_, *source_, test::cut(config_, "1.75,2.25"), kLimits, *device_, *ops_);
    plan_.add_run_by_earlier(3);  // the MLP that both share
    want_logits(add_row(plan_, *chain_, 0, 0, std::vector<int32_t>{3, 4, 5, 6, 7, 8, 9}), 2);
    add_row(plan_, *chain_, 1, 0, std::vector<int32_t>{10, 11});
    want_logits(add_row(plan_, *chain_, 2, 0, std::vector<int32_t>{12, 13, 14}), 2);
  }

  static constexpr test::Limits kLimits{DType::f32, 64, 8, 20, 3};
  ModelConfig config_;
  std::unique_ptr<WeightSource> source_ = make_dummy_weights(1);
  std::unique_ptr<Device> device_ = make_cpu_device();
  std::unique_ptr<Ops> ops_ = make_reference_ops(*device_);
  std::unique_ptr<Chain> chain_;
  proto::Plan plan_;
};

TEST_F(ForwardInParts, GivesTheSameBitsHoweverLittleMemoryThereIs) {
  const Shape shape{12, config_.hidden_size};
  const Tensor hidden = device_->tensor(DType::f32, shape);
  chain_->stage(0).forward(plan_, {}, hidden);
  const std::vector<Sampled> expected = chain_->stage(1).forward(plan_, hidden, {});
  ASSERT_EQ(expected.size(), 2u);
  for (const int64_t room : {1, 2, 3, 5, 6, 11, 12}) {
    ScarceStage first(chain_->stage(0), room);
    ScarceStage second(chain_->stage(1), room);
    int ran_out = 0;
    const Tensor again = device_->tensor(DType::f32, shape);
    forward_in_parts(first, *device_, plan_, {}, again, [&] { ++ran_out; });
    EXPECT_EQ(ran_out > 0, room < 12);
    EXPECT_EQ(std::memcmp(again.view.data, hidden.view.data, hidden.view.bytes()), 0) << room;
    const std::vector<Sampled> sampled = forward_in_parts(second, *device_, plan_, again, {}, [] {})->take();
    ASSERT_EQ(sampled.size(), expected.size()) << room;
    for (size_t i = 0; i < sampled.size(); ++i) {
      EXPECT_EQ(sampled[i].token, expected[i].token);
      EXPECT_EQ(sampled[i].logprob, expected[i].logprob);
    }
  }
}

TEST_F(ForwardInParts, GivesUpWhenOneTokenHasNoRoom) {
  ScarceStage first(chain_->stage(0), 0);
  const Tensor out = device_->tensor(DType::f32, {12, config_.hidden_size});
  EXPECT_THROW(forward_in_parts(first, *device_, plan_, {}, out, [] {}), OutOfMemory);
}

/// Plans one micro-batch and keeps what comes back.
class OnePlan final : public PlanSource {
 public:
  explicit OnePlan(proto::Plan plan) : plan_(std::move(plan)) {}
  proto::Plan plan(int) override { return std::exchange(plan_, {}); }
  void take_in(int, const proto::StepResult& result) override { result_ = result; }
  bool finished_or_wait() override { return true; }
  const proto::StepResult& result() const { return result_; }

 private:
  proto::Plan plan_;
  proto::StepResult result_;
};

TEST_F(ForwardInParts, ThePipelineGoesOnAndTheGuardHearsOfIt) {
  const Tensor hidden = device_->tensor(DType::f32, {12, config_.hidden_size});
  chain_->stage(0).forward(plan_, {}, hidden);
  const std::vector<Sampled> expected = chain_->stage(1).forward(plan_, hidden, {});

  const auto worlds = make_loopback_world(2);
  const Schedule schedule = make_generation_schedule(2, 2);
  ScarceStage scarce(chain_->stage(1), 5);
  OnePlan source(plan_);
  Runner first(chain_->stage(0), *device_, *worlds[0], {nullptr, worlds[0]->sender(1)}, schedule, {0, 0, 20},
               &source);
  Runner second(scarce, *device_, *worlds[1], {worlds[1]->receiver(0), nullptr}, schedule, {1, 0, 20},
                nullptr);
  proto::StageReport report;
  std::thread other([&] { report = second.run(); });
  first.run();
  other.join();
  std::thread farewell([&] { worlds[1]->finish(); });
  worlds[0]->finish();
  farewell.join();

  ASSERT_EQ(source.result().tokens_size(), 2);
  for (int i = 0; i < 2; ++i)
    EXPECT_EQ(source.result().tokens(i).logprob(), expected[static_cast<size_t>(i)].logprob);
  EXPECT_EQ(report.out_of_memory(), 3u);  // 12 tokens, 6 and 6
  EXPECT_EQ(report.micro_batches(), 1u);

  JobDescription job;
  job.max_model_len = 64;
  job.stages.resize(2);
  JobMetrics metrics(job);
  metrics.stage_reported(report, JobMetrics::Clock::now());
  Guard guard(parse_guard("oom=3"), {64, 512, 100}, {2, 16, 10});
  EXPECT_EQ(guard.look(metrics.snapshot(JobMetrics::Clock::now())).size(), 1u);
  EXPECT_EQ(guard.settings(), (GuardSettings{32, 256, 100}));
}

}  // namespace
}  // namespace penstock
