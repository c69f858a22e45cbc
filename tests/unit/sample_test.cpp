#include <algorithm>
#include <map>
#include <numeric>

#include "kernels/sampling.h"
#include "tests/unit/kernel_testing.h"

namespace penstock::testing {
namespace {

/// The logits as vLLM's rules leave them, from the definitions and in float64.
std::vector<double> ruled(const TensorView& logits_1V, const SampleParams& params) {
  std::vector<double> x_V;
  for (int64_t id = 0; id < logits_1V.dim(1); ++id) {
    const auto is_in = [id](std::span<const int32_t> ids) {
      return std::find(ids.begin(), ids.end(), static_cast<int32_t>(id)) != ids.end();
    };
    const bool out = (!params.allowed.empty() && !is_in(params.allowed)) || is_in(params.banned);
    double x = out ? -std::numeric_limits<double>::infinity() : static_cast<double>(at(logits_1V, id));
    for (const LogitEdit& edit : params.edits) {
      if (edit.token != id) continue;
      x += static_cast<double>(edit.add);
      x = x > 0 ? x / static_cast<double>(edit.repeat) : x * static_cast<double>(edit.repeat);
      x -= static_cast<double>(edit.less);
    }
    x_V.push_back(x);
  }
  return x_V;
}

/// The exact distribution, from the definitions and in float64: probability_V[id], 0 for what a filter
/// removes.
std::vector<double> exact_distribution(const TensorView& logits_1V, const SampleParams& params) {
  const int64_t v = logits_1V.dim(1);
  const std::vector<double> logits = ruled(logits_1V, params);
  std::vector<int> ranked(static_cast<size_t>(v));
  std::iota(ranked.begin(), ranked.end(), 0);
  std::stable_sort(ranked.begin(), ranked.end(), [&](int a, int b) {
    return logits[static_cast<size_t>(a)] > logits[static_cast<size_t>(b)];
  });
  const double largest = logits[static_cast<size_t>(ranked[0])];
  std::vector<double> p(static_cast<size_t>(v));
  const auto normalise = [&] {
    const double whole = std::accumulate(p.begin(), p.end(), 0.0);
    for (double& x : p) x /= whole;
  };
  for (int64_t id = 0; id < v; ++id)
    p[static_cast<size_t>(id)] =
        std::exp((logits[static_cast<size_t>(id)] - largest) / static_cast<double>(params.temperature));
  normalise();
  const double most = p[static_cast<size_t>(ranked[0])];
  for (double& x : p)
    if (x < static_cast<double>(params.min_p) * most) x = 0;
  if (params.top_k > 0)
    for (size_t rank = static_cast<size_t>(params.top_k); rank < ranked.size(); ++rank)
      p[static_cast<size_t>(ranked[rank])] = 0;
  normalise();
  double before = 0;
  for (const int id : ranked) {
    double& x = p[static_cast<size_t>(id)];
    const double own = x;
    if (before >= static_cast<double>(params.top_p)) x = 0;
    before += own;
  }
  normalise();
  return p;
}

class Sampling : public OnEveryKernelTable {
 protected:
  /// Draws with positions 0, 1, ... and compares the counts with the exact distribution: chi-square over
  /// tokens expected at least ten times, the rest in one bin. Seeds are fixed: it passes always or never.
  void expect_exact_distribution(const SampleParams& params) {
    constexpr int kDraws = 20000;
    const Tensor logits = values_.random(DType::f32, {1, 150}, 4);
    const auto fast = ops(1);
    std::vector<int> counts(150);
    SampleParams drawn = params;
    for (drawn.position = 0; drawn.position < kDraws; ++drawn.position)
      ++counts[static_cast<size_t>(fast->sample(logits, std::span(&drawn, 1))[0].token)];
    const std::vector<double> p = exact_distribution(logits, params);
    double chi_square = 0, rest_expected = 0, rest_found = 0;
    int bins = 0;
    for (size_t id = 0; id < p.size(); ++id) {
      const double expected = p[id] * kDraws;
      if (expected == 0) {
        ASSERT_EQ(counts[id], 0) << "token " << id << " is outside the filter";
      } else if (expected < 10) {
        rest_expected += expected;
        rest_found += counts[id];
      } else {
        chi_square += (counts[id] - expected) * (counts[id] - expected) / expected;
        ++bins;
      }
    }
    if (rest_expected > 1) {
      chi_square += (rest_found - rest_expected) * (rest_found - rest_expected) / rest_expected;
      ++bins;
    }
    ASSERT_GT(bins, 2);
    const double freedom = bins - 1;
    EXPECT_LT(chi_square, freedom + 4 * std::sqrt(2 * freedom)) << bins << " bins";
  }
};

TEST_P(Sampling, FollowsTheTemperature) {
  expect_exact_distribution({.temperature = 0.8F, .key = 11});
}
TEST_P(Sampling, FollowsAHighTemperature) {
  expect_exact_distribution({.temperature = 3, .key = 12});
}
TEST_P(Sampling, FollowsTopK) {
  expect_exact_distribution({.top_k = 7, .key = 13});
}
TEST_P(Sampling, FollowsTopP) {
  expect_exact_distribution({.temperature = 2, .top_p = 0.7F, .key = 14});
}
TEST_P(Sampling, FollowsMinP) {
  expect_exact_distribution({.temperature = 2, .min_p = 0.2F, .key = 15});
}
TEST_P(Sampling, FollowsAllFiltersAtOnce) {
  expect_exact_distribution({.temperature = 1.5F, .top_k = 20, .top_p = 0.8F, .min_p = 0.05F, .key = 16});
}

TEST_P(Sampling, FollowsARepetitionPenalty) {
  std::vector<LogitEdit> edits;
  for (int32_t id = 0; id < 150; id += 3) edits.push_back({id, 0, 1.8F, 0});
  expect_exact_distribution({.temperature = 0.9F, .key = 21, .edits = edits});
}
TEST_P(Sampling, FollowsPresenceAndFrequencyPenalties) {
  std::vector<LogitEdit> edits;
  for (int32_t id = 1; id < 150; id += 2)
    edits.push_back({id, 0, 1, 0.5F + 0.1F * static_cast<float>(id % 7)});
  expect_exact_distribution({.key = 22, .edits = edits});
}
TEST_P(Sampling, FollowsABias) {
  const std::vector<LogitEdit> edits{{3, 4, 1, 0}, {20, -100, 1, 0}, {149, 2, 1, 0}};
  expect_exact_distribution({.temperature = 1.5F, .key = 23, .edits = edits});
}
TEST_P(Sampling, FollowsAllowedAndBannedTokens) {
  const std::vector<int32_t> allowed{0, 7, 8, 9, 64, 65, 149};
  const std::vector<int32_t> banned{8, 64};
  expect_exact_distribution({.temperature = 2, .key = 24, .allowed = allowed});
  expect_exact_distribution({.temperature = 2, .key = 25, .allowed = allowed, .banned = banned});
  expect_exact_distribution({.temperature = 2, .key = 26, .banned = banned});
}
TEST_P(Sampling, FollowsRulesAndFiltersAtOnce) {
  std::vector<LogitEdit> edits;
  for (int32_t id = 0; id < 150; id += 2) edits.push_back({id, 0.5F, 1.3F, 0.4F});
  const std::vector<int32_t> banned{1, 3, 5};
  expect_exact_distribution({.temperature = 1.5F,
                             .top_k = 30,
                             .top_p = 0.9F,
                             .min_p = 0.02F,
                             .key = 27,
                             .banned = banned,
                             .edits = edits});
}

TEST_P(Sampling, LogprobsAreOfTheRawLogitsWhateverTheRules) {
  const auto fast = ops(1);
  const auto reference = make_reference_ops(*device_);
  const Tensor logits = values_.random(DType::f32, {3, 4000}, 5);
  const std::vector<int32_t> allowed{5, 700, 3999};
  const std::vector<LogitEdit> edits{{700, 9, 2, 0.5F}};
  const std::vector<SampleParams> params{
      {.temperature = 0, .logprobs = 3, .allowed = allowed},
      {.key = 4, .logprobs = 0, .edits = edits},
      {.temperature = 0, .logprobs = 2, .allowed = allowed, .edits = edits}};
  const auto found = fast->sample(logits, params);
  const auto expected = reference->sample(logits, params);
  for (size_t r = 0; r < params.size(); ++r) {
    EXPECT_EQ(found[r].token, expected[r].token);
    const ScoreParams score{found[r].token, params[r].logprobs};
    const TensorView row{logits.view.as<float>() + r * 4000, DType::f32, {1, 4000}};
    const Sampled raw = fast->score(row, std::span(&score, 1))[0];
    EXPECT_EQ(found[r].logprob, raw.logprob) << "to the bit: a token is worth the same drawn or given";
    ASSERT_EQ(found[r].top.size(), raw.top.size());
    for (size_t i = 0; i < raw.top.size(); ++i) EXPECT_EQ(found[r].top[i].token, raw.top[i].token);
  }
}

TEST_P(Sampling, AScoreIsTheReferencesWithItsRank) {
  const auto fast = ops(2);
  const auto reference = make_reference_ops(*device_);
  const Tensor logits = values_.random(DType::f32, {4, 3000}, 4);
  logits.view.as<float>()[17] = logits.view.as<float>()[18];
  const std::vector<ScoreParams> params{{17, 0}, {2999, 20}, {0, 1}, {5, 3}};
  const auto found = fast->score(logits, params);
  const auto expected = reference->score(logits, params);
  for (size_t r = 0; r < params.size(); ++r) {
    EXPECT_EQ(found[r].token, params[r].token);
    EXPECT_EQ(found[r].rank, expected[r].rank);
    EXPECT_NEAR(found[r].logprob, expected[r].logprob, 1e-5);
    ASSERT_EQ(found[r].top.size(), static_cast<size_t>(params[r].logprobs));
    for (size_t i = 0; i < found[r].top.size(); ++i)
      EXPECT_EQ(found[r].top[i].token, expected[r].top[i].token);
  }
}

TEST_P(Sampling, AgreesWithTheReferenceOnLongRows) {
  const auto fast = ops(2);
  const auto reference = make_reference_ops(*device_);
  const Tensor logits = values_.random(DType::f32, {6, 20000}, 5);
  const std::vector<SampleParams> params{
      {.key = 1, .position = 3, .logprobs = 5},
      {.temperature = 0, .logprobs = 20},
      {.temperature = 0.7F, .top_k = 50, .key = 2, .logprobs = 0},
      {.top_p = 0.9F, .key = 3, .logprobs = 1},
      {.top_k = 5000, .top_p = 0.999F, .key = 4},
      {.temperature = 1.3F, .min_p = 0.1F, .key = 5, .logprobs = 3},
  };
  const auto found = fast->sample(logits, params);
  const auto expected = reference->sample(logits, params);
  for (size_t r = 0; r < params.size(); ++r) {
    SCOPED_TRACE(r);
    EXPECT_EQ(found[r].token, expected[r].token);
    EXPECT_NEAR(found[r].logprob, expected[r].logprob, 1e-5);
    ASSERT_EQ(found[r].top.size(), expected[r].top.size());
    for (size_t i = 0; i < found[r].top.size(); ++i) {
      EXPECT_EQ(found[r].top[i].token, expected[r].top[i].token);
      EXPECT_NEAR(found[r].top[i].logprob, expected[r].top[i].logprob, 1e-5);
    }
  }
}

TEST_P(Sampling, DependsOnlyOnItsOwnRow) {
  const Tensor logits = values_.random(DType::f32, {9, 3000}, 3);
  std::vector<SampleParams> params(9);
  for (size_t r = 0; r < 9; ++r) params[r] = {.top_p = 0.95F, .key = r, .position = 7, .logprobs = 2};
  const auto together = ops(3)->sample(logits, params);
  const auto alone = ops(1);
  for (size_t r = 0; r < 9; ++r) {
    const TensorView row{logits.view.as<float>() + r * 3000, DType::f32, {1, 3000}};
    const auto one = alone->sample(row, std::span(&params[r], 1));
    EXPECT_EQ(one[0].token, together[r].token);
    EXPECT_EQ(one[0].logprob, together[r].logprob);
  }
}

TEST_P(Sampling, GreedyTakesTheLowestIdAmongEquals) {
  const Tensor logits = values_.random(DType::f32, {1, 500});
  for (const int id : {499, 77, 300}) logits.view.as<float>()[id] = 9;
  const SampleParams greedy{.temperature = 0, .logprobs = 2};
  const auto sampled = ops(1)->sample(logits, std::span(&greedy, 1));
  EXPECT_EQ(sampled[0].token, 77);
  EXPECT_EQ(sampled[0].top[0].token, 77);
  EXPECT_EQ(sampled[0].top[1].token, 300);
}

TEST_P(Sampling, TopPNeverLeavesNothing) {
  const Tensor logits = values_.random(DType::f32, {1, 500});
  logits.view.as<float>()[123] = 2;
  for (const float p : {0.0F, 1e-9F}) {
    const SampleParams params{.top_p = p, .key = 5};
    EXPECT_EQ(ops(1)->sample(logits, std::span(&params, 1))[0].token, 123);
  }
  const SampleParams too_strict{.min_p = 2};
  EXPECT_EQ(ops(1)->sample(logits, std::span(&too_strict, 1))[0].token, 123);
}

TEST_P(Sampling, TopPKeepsTheLowerIdsAmongEquals) {
  const Tensor logits = device_->tensor(DType::f32, {1, 100});
  std::fill_n(logits.view.as<float>(), 100, 1.5F);
  const auto fast = ops(1);
  std::vector<bool> seen(100);
  SampleParams params{.top_p = 0.5F, .key = 9};
  for (params.position = 0; params.position < 2000; ++params.position)
    seen[static_cast<size_t>(fast->sample(logits, std::span(&params, 1))[0].token)] = true;
  for (size_t id = 0; id < 100; ++id) EXPECT_EQ(seen[id], id < 50) << id;
}

TEST_P(Sampling, EndsForEveryKindOfBrokenRow) {
  constexpr float kInfinity = std::numeric_limits<float>::infinity();
  const auto row = [&](float fill, std::initializer_list<std::pair<int, float>> changes) {
    const Tensor t = device_->tensor(DType::f32, {1, 200});
    std::fill_n(t.view.as<float>(), 200, fill);
    for (const auto& [id, x] : changes) t.view.as<float>()[id] = x;
    return t;
  };
  for (const SampleParams& params :
       {SampleParams{.logprobs = 3}, SampleParams{.temperature = 0, .logprobs = 3},
        SampleParams{.top_k = 5, .top_p = 0.5F, .logprobs = 3},
        SampleParams{.temperature = kNan, .top_p = kNan, .min_p = kNan}}) {
    const auto token = [&](const Tensor& logits) { return ops(1)->sample(logits, std::span(&params, 1))[0]; };
    const Sampled none = token(row(kNan, {}));
    EXPECT_EQ(none.token, 0);
    if (params.logprobs >= 0) {
      EXPECT_TRUE(std::isnan(none.logprob));
    }
    EXPECT_EQ(token(row(-kInfinity, {})).token, 0);
    EXPECT_EQ(token(row(-kInfinity, {{42, -5.0F}})).token, 42);
    EXPECT_EQ(token(row(kNan, {{142, -5.0F}})).token, 142);
    EXPECT_EQ(token(row(0, {{17, kInfinity}})).token, 17);
  }
}

INSTANTIATE_TEST_SUITE_P(Kernels, Sampling, ::testing::ValuesIn(cpu::available_kernels()), kernel_name);

}  // namespace
}  // namespace penstock::testing
