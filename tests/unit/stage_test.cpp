#include "runtime/model/model_cost.h"
#include "tests/unit/stage_fixtures.h"

namespace penstock {
namespace {

using test::add_row;
using test::Chain;
using test::want_logits;

ModelConfig small_config(const GqaConfig& attention, bool mlp_bias) {
  ModelConfig c;
  c.vocab_size = 50;
  c.hidden_size = 24;
  c.max_position_embeddings = 64;
  c.rms_norm_eps = 1e-6F;
  c.rope = {10000, attention.head_dim, RopeDefault{}};
  c.layers.assign(4, LayerConfig{attention, DenseMlpConfig{40, mlp_bias}});
  return c;
}

class SmallStage : public testing::Test {
 protected:
  SmallStage() : chain_(config_, *source_, test::cut(config_, "2,2"), kLimits, *device_, *ops_) {}

  /// What forward says of the plan, on the first stage.
  std::string refusal(const proto::Plan& plan) {
    try {
      chain_.forward(plan);
    } catch (const Error& e) {
      return e.what();
    }
    ADD_FAILURE() << "expected an Error, found none";
    return "";
  }

  static constexpr test::Limits kLimits{DType::f32, 64, 8, 20, 3};
  ModelConfig config_ = small_config({4, 2, 6, true, true, true}, true);
  std::unique_ptr<WeightSource> source_ = make_dummy_weights(1);
  std::unique_ptr<Device> device_ = make_cpu_device();
  std::unique_ptr<Ops> ops_ = make_reference_ops(*device_);
  Chain chain_;
};

TEST_F(SmallStage, AnswersOncePerRowThatWantsLogitsInThePlansOrder) {
  proto::Plan plan;
  const std::vector<int32_t> tokens{3, 4, 5};
  want_logits(add_row(plan, chain_, 2, 0, tokens), 1);
  add_row(plan, chain_, 0, 0, tokens);
  want_logits(add_row(plan, chain_, 1, 0, std::span(tokens).first(1)), 1);
  const auto both = chain_.forward(plan);
  ASSERT_EQ(both.size(), 2U);

  for (const int kept : {0, 2}) {
    proto::Plan alone;
    *alone.add_rows() = plan.rows(kept);
    const auto one = chain_.forward(alone);
    ASSERT_EQ(one.size(), 1U);
    EXPECT_EQ(one[0].logprob, both[kept == 0 ? 0 : 1].logprob) << "a row does not see its neighbours";
  }
}

TEST_F(SmallStage, AnEmptyPlanIsAnsweredWithNothing) {
  EXPECT_TRUE(chain_.forward({}).empty());
}

TEST_F(SmallStage, TheInputOfAMiddleStageIsLeftAlone) {
  proto::Plan plan;
  const std::vector<int32_t> tokens{3, 4};
  want_logits(add_row(plan, chain_, 0, 0, tokens), 1);
  const Tensor hidden = device_->tensor(DType::f32, {2, config_.hidden_size});
  chain_.stage(0).forward(plan, {}, hidden);
  const std::vector<float> before(hidden.view.as<float>(), hidden.view.as<float>() + 2 * config_.hidden_size);
  chain_.stage(1).forward(plan, hidden, {});
  EXPECT_TRUE(std::equal(before.begin(), before.end(), hidden.view.as<float>()));
}

TEST_F(SmallStage, APlanThatDoesNotFitIsAnErrorAndNotTouchedMemory) {
  const std::vector<int32_t> tokens{3, 4, 5};
  const auto refused = [&](auto change) {
    proto::Plan plan;
    plan.set_step(41);
    auto& row = add_row(plan, chain_, 2, 0, tokens);
    want_logits(row, 1);
    change(plan, row);
    return refusal(plan);
  };
  using P = proto::Plan;
  using R = proto::PlannedRow;
  EXPECT_CONTAINS(refused([](P&, R& r) { r.set_tokens(1, 50); }),
                  "micro-batch 41 cannot be run: sequence 2: expected token ids below 50, found 50");
  EXPECT_CONTAINS(refused([](P&, R& r) { r.set_blocks(0, 24); }), "block numbers below 24, found 24");
  EXPECT_CONTAINS(refused([](P&, R& r) { r.clear_blocks(); }), "1 blocks of 8 for 3 positions, found 0");
  EXPECT_CONTAINS(refused([](P&, R& r) { r.set_start(6); }), "2 blocks of 8 for 9 positions, found 1");
  EXPECT_CONTAINS(refused([](P&, R& r) { r.set_start(0xFFFFFFFF); }),
                  "max_model_len 64 positions, found 4294967298");
  EXPECT_CONTAINS(refused([](P&, R& r) { r.clear_tokens(); }), "at least one token");
  EXPECT_CONTAINS(refused([](P&, R& r) { r.mutable_sampling()->set_temperature(-1); }), "temperature");
  EXPECT_CONTAINS(refused([](P& p, R&) {
                    for (int i = 0; i < 3; ++i) *p.add_rows() = p.rows(0);
                  }),
                  "at most 3 sequences, found 4");
  EXPECT_CONTAINS(refused([](P& p, R& r) {
                    for (int i = 0; i < 18; ++i) r.add_tokens(1);
                    for (int i = 0; i < 2; ++i) r.add_blocks(0);
                    (void)p;
                  }),
                  "at most 20 tokens, found 21");
}

TEST_F(SmallStage, AWeightOfAnotherShapeIsNamed) {
  // A checkpoint with half as many KV heads as config.json says.
  const test::TempDir dir;
  dir.write(
      "model.safetensors",
      test::safetensors_bytes(
          {{"model.layers.0.input_layernorm.weight", "F32", {24}, test::raw(std::vector<float>(24))},
           {"model.layers.0.self_attn.q_proj.weight", "F32", {24, 24}, test::raw(std::vector<float>(576))},
           {"model.layers.0.self_attn.k_proj.weight", "F32", {6, 24}, test::raw(std::vector<float>(144))}}));
  const auto source = open_checkpoint(dir.path());
  const std::string message = test::usage_error([&] {
    build_stage(config_, *source, {{false, 0, 1, false}, DType::f32, 64, 8, 20, 3}, *device_, *ops_);
  });
  EXPECT_CONTAINS(message, "model.layers.0.self_attn.k_proj.weight: expected [12, 24], found [6, 24]");
}

TEST(ModelCost, IsWhatAStageHolds) {
  const auto device = make_cpu_device();
  const auto ops = make_reference_ops(*device);
  const auto source = make_dummy_weights(1);
  for (const bool bias : {false, true})
    for (const DType dtype : {DType::f32, DType::bf16}) {
      const ModelConfig config = small_config({4, 2, 6, bias, bias, bias}, bias);
      const auto built = [&](int64_t halves, bool embedding, bool head) {
        return build_stage(config, *source, {{embedding, 0, halves, head}, dtype, 64, 8, 20, 3}, *device,
                           *ops);
      };
      const auto weighs = [&](int64_t halves, bool embedding, bool head) {
        return static_cast<int64_t>(built(halves, embedding, head)->weight_bytes());
      };
      EXPECT_EQ(weighs(0, true, false), embedding_cost(config, dtype).weight_bytes);
      EXPECT_EQ(weighs(6, false, false), 3 * layer_cost(config, 0, dtype).weight_bytes);
      EXPECT_EQ(weighs(1, false, false), half_cost(config, 0, dtype).weight_bytes);
      EXPECT_EQ(weighs(0, false, true), head_cost(config, dtype).weight_bytes);
      for (const DType kv : {dtype, DType::e4m3, DType::i8})
        EXPECT_EQ(static_cast<int64_t>(
                      build_stage(config, *source,
                                  {{false, 0, 5, false}, dtype, 64, 8, 20, 3, ExpertLoading::eager, kv},
                                  *device, *ops)
                          ->kv_bytes_per_block()),
                  3 * kv_bytes_per_block(config, 0, kv, 8));
      EXPECT_EQ(built(0, true, true)->kv_bytes_per_block(), 0U);
    }
}

TEST(ModelCost, CountsTheBenchmarkShapeAsTheIssueDoes) {
  ModelConfig c;
  c.vocab_size = 32000;
  c.hidden_size = 2048;
  c.layers.assign(18, LayerConfig{GqaConfig{16, 8, 128}, DenseMlpConfig{5632}});
  EXPECT_NEAR(18 * layer_cost(c, 0, DType::bf16).flops_per_token, 2 * 0.85e9, 2 * 0.005e9);
  EXPECT_NEAR(head_cost(c, DType::bf16).flops_per_token, 2 * 0.065e9, 2 * 0.001e9);
  EXPECT_EQ(attention_flops_per_token(c, 0, 100), 4.0 * 2048 * 100);
}

}  // namespace
}  // namespace penstock
