// Whole models against generations that Hugging Face transformers made in float32, in one stage and cut in
// several.
#include <cmath>

#include "runtime/model/safetensors.h"
#include "tests/unit/stage_fixtures.h"

namespace penstock {
namespace {

using test::add_row;
using test::Chain;
using test::GoldenCase;
using test::want_logits;

/// One model with the device and ops that outlive it.
struct Model {
  explicit Model(const std::filesystem::path& dir)
      : config(load_model_config(dir)),
        source(open_checkpoint(dir)),
        device(make_cpu_device()),
        ops(make_cpu_ops(*device, 2)) {}

  Chain chain(const Partition& partition, const test::Limits& limits = {}) {
    return {config, *source, partition, limits, *device, *ops};
  }

  ModelConfig config;
  std::unique_ptr<WeightSource> source;
  std::unique_ptr<Device> device;
  std::unique_ptr<Ops> ops;
};

/// Compares up to the first near tie, where either token would be right.
void expect_golden(const std::vector<GoldenCase>& cases, const std::vector<std::vector<Sampled>>& answers) {
  constexpr double kNearTie = 2e-3;
  constexpr double kTolerance = 1e-3;
  ASSERT_FALSE(answers.empty());
  for (size_t c = 0; c < answers.size(); ++c)
    for (size_t s = 0; s < answers[c].size(); ++s) {
      const GoldenCase::Step& expected = cases[c].steps[s];
      const Sampled& found = answers[c][s];
      if (expected.margin < kNearTie && found.token != expected.token) break;
      ASSERT_EQ(found.token, expected.token) << "case " << c << " step " << s;
      ASSERT_NEAR(static_cast<double>(found.logprob), expected.logprob, kTolerance)
          << "case " << c << " step " << s;
    }
}

void expect_same_bits(const std::vector<std::vector<Sampled>>& a,
                      const std::vector<std::vector<Sampled>>& b) {
  ASSERT_EQ(a.size(), b.size());
  for (size_t r = 0; r < a.size(); ++r) {
    ASSERT_EQ(a[r].size(), b[r].size());
    for (size_t s = 0; s < a[r].size(); ++s) {
      ASSERT_EQ(a[r][s].token, b[r][s].token) << "row " << r << " step " << s;
      ASSERT_EQ(a[r][s].logprob, b[r][s].logprob) << "row " << r << " step " << s;
      for (size_t t = 0; t < a[r][s].top.size(); ++t)
        ASSERT_EQ(a[r][s].top[t].logprob, b[r][s].top[t].logprob) << "row " << r << " step " << s;
    }
  }
}

std::vector<std::vector<int32_t>> prompts_of(const std::vector<GoldenCase>& cases) {
  std::vector<std::vector<int32_t>> prompts;
  for (const GoldenCase& c : cases) prompts.push_back(c.prompt);
  return prompts;
}

class OwnGolden : public testing::TestWithParam<const char*> {};
class SharedGolden : public testing::TestWithParam<const char*> {};

TEST_P(OwnGolden, IsReachedByEveryCutWithTheSameBits) {
  Model model(test::own_models() / GetParam());
  const auto cases = test::read_golden(test::own_models() / GetParam());
  const auto prompts = prompts_of(cases);

  Chain whole = model.chain(test::uncut(model.config));
  const auto answers = generate(whole, prompts, cases[0].steps.size(), 512);
  expect_golden(cases, answers);

  Chain cut = model.chain(test::cut_in_three(model.config));
  expect_same_bits(generate(cut, prompts, cases[0].steps.size(), 7), answers);
}

INSTANTIATE_TEST_SUITE_P(Stage, OwnGolden,
                         testing::Values("tiny-qwen3", "tiny-qwen3-bias", "tiny-llama-bias",
                                         "tiny-llama-yarn", "tiny-qwen2-yarn", "tiny-mistral",
                                         "tiny-deepseek-v2-groups", "tiny-deepseek-v2-greedy",
                                         "tiny-deepseek-v3-halves", "tiny-deepseek-v3-plain",
                                         "tiny-deepseek-v3-negative"));

TEST_P(SharedGolden, IsReachedByEveryCutWithTheSameBits) {
  const auto dir = test::shared_models() / GetParam();
  if (!std::filesystem::exists(dir)) GTEST_SKIP() << "no shared models at " << dir << "; set PENSTOCK_SHARED";
  Model model(dir);
  auto cases = test::read_golden(dir);
  cases.resize(2);
  const auto prompts = prompts_of(cases);

  Chain whole = model.chain(test::uncut(model.config));
  const auto answers = generate(whole, prompts, 6, 512);
  expect_golden(cases, answers);

  Chain cut = model.chain(test::cut_in_three(model.config));
  expect_same_bits(generate(cut, prompts, 6, 16), answers);
}

TEST_P(SharedGolden, LogitsOfEveryPromptTokenAreThoseOfTheReference) {
  const auto dir = test::shared_models() / GetParam();
  if (!std::filesystem::exists(dir)) GTEST_SKIP() << "no shared models at " << dir << "; set PENSTOCK_SHARED";
  Model model(dir);
  const auto cases = test::read_golden(dir);
  const SafetensorsFile golden(dir.string() + ".golden.logits.safetensors");
  const auto vocabulary = static_cast<size_t>(model.config.vocab_size);
  Chain chain = model.chain(test::uncut(model.config));

  // The shortest of the first cases, fed token by token, every alternative asked for.
  const size_t c = cases[1].prompt.size() < cases[0].prompt.size() || cases[0].prompt.size() == 1 ? 1 : 0;
  const std::vector<int32_t>& prompt = cases[c].prompt;
  const auto& entry = golden.entries().at("prompt" + std::to_string(c) + ".logits");
  std::vector<float> logits(prompt.size() * vocabulary);
  ASSERT_EQ(entry.bytes, logits.size() * sizeof(float));
  golden.read(entry.offset, logits.data(), entry.bytes);

  for (size_t t = 0; t < prompt.size(); ++t) {
    proto::Plan plan;
    want_logits(add_row(plan, chain, 0, static_cast<int64_t>(t), std::span(prompt).subspan(t, 1)),
                static_cast<int32_t>(vocabulary));
    const std::vector<Sampled> sampled = chain.forward(plan);
    ASSERT_EQ(sampled.at(0).top.size(), vocabulary);
    const float* expected = logits.data() + t * vocabulary;
    double sum = 0;
    for (size_t v = 0; v < vocabulary; ++v) sum += std::exp(static_cast<double>(expected[v]));
    for (const TokenLogprob& found : sampled[0].top)
      ASSERT_NEAR(static_cast<double>(found.logprob),
                  static_cast<double>(expected[found.token]) - std::log(sum), 2e-3)
          << "position " << t << " token " << found.token;
  }
}

INSTANTIATE_TEST_SUITE_P(Stage, SharedGolden,
                         testing::Values("gsm-llama-18", "qwen2-18", "llama3-18", "llama-linear-18",
                                         "deepseek-v2-18", "deepseek-v3-18"));

TEST(Stage, Bfloat16StaysNearTheFloat32Reference) {
  Model model(test::own_models() / "tiny-qwen3");
  auto cases = test::read_golden(test::own_models() / "tiny-qwen3");
  Chain chain = model.chain(test::uncut(model.config), {.dtype = DType::bf16});
  const auto answers = generate(chain, prompts_of(cases), 1, 512);
  ASSERT_GE(cases.size(), 4U);
  for (size_t c = 0; c < cases.size(); ++c) {
    if (cases[c].steps[0].margin < 0.15) continue;
    EXPECT_EQ(answers[c][0].token, cases[c].steps[0].token);
    EXPECT_NEAR(static_cast<double>(answers[c][0].logprob), cases[c].steps[0].logprob, 0.1);
  }
}

}  // namespace
}  // namespace penstock
