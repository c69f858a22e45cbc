// Mixture of experts on a GPU: choosing experts, the products by expert and by head, and the whole chain.
#include <algorithm>
#include <functional>
#include <numeric>

#include "tests/unit/cuda_fixtures.h"

namespace penstock::test {
namespace {

/// A routing on the host and on the GPU.
struct TwinRouting {
  Twin memory;
  RoutingView host;
  RoutingView gpu;
};

/// A set of weights in both back ends.
struct TwinWeights {
  std::vector<std::unique_ptr<Matrix>> owned;
  std::vector<const Matrix*> host;
  std::vector<const Matrix*> gpu;
};

/// Whether each of the `count` greatest values is clearly greater than the next, beside numbers of size
/// `least`.
bool are_clear(std::vector<double> values, int64_t count, double least) {
  std::sort(values.rbegin(), values.rend());
  for (size_t i = 0; i < static_cast<size_t>(count) && i + 1 < values.size(); ++i)
    if (values[i] - values[i + 1] < 2e-6 * std::max(std::abs(values[i]), least)) return false;
  return true;
}

bool is_clear(const std::vector<float>& logits_E, int64_t chosen, const GateView& gate) {
  std::vector<double> choice_E;
  double sum = 0;
  for (const float x : logits_E) sum += std::exp(static_cast<double>(x));
  for (size_t e = 0; e < logits_E.size(); ++e) {
    const auto x = static_cast<double>(logits_E[e]);
    choice_E.push_back(gate.sigmoid ? 1 / (1 + std::exp(-x)) : std::exp(x) / sum);
    if (gate.correction_E.data != nullptr)
      choice_E[e] += static_cast<double>(gate.correction_E.as<const float>()[e]);
  }
  const double least = gate.correction_E.data != nullptr ? 1 : 0;
  if (gate.groups == 1) return are_clear(choice_E, chosen, least);
  const auto size = static_cast<int64_t>(logits_E.size()) / gate.groups;
  std::vector<double> worth_G;
  for (auto group = choice_E.begin(); group != choice_E.end(); group += size) {
    std::vector<double> best(group, group + size);
    std::sort(best.rbegin(), best.rend());
    worth_G.push_back(gate.two_best && size > 1 ? best[0] + best[1] : best[0]);
  }
  return are_clear(worth_G, gate.groups_kept, least) && are_clear(choice_E, std::ssize(choice_E), least);
}

class CudaExperts : public CudaTest {
 protected:
  TwinRouting routing(int64_t tokens, int64_t chosen, int64_t experts) {
    const auto words = static_cast<int64_t>(RoutingView::bytes(tokens, chosen, experts) / 4);
    TwinRouting made{of(std::vector<int32_t>(static_cast<size_t>(words), -1)), {}, {}};
    made.host = RoutingView::over(made.memory.host.view.data, tokens, chosen, experts);
    made.gpu = RoutingView::over(made.memory.gpu.view.data, tokens, chosen, experts);
    return made;
  }

  /// Pairs that were given to experts by hand.
  TwinRouting routing(const std::vector<int64_t>& counts) {
    TwinRouting made =
        routing(std::accumulate(counts.begin(), counts.end(), int64_t{0}), 1, std::ssize(counts));
    made.host.expert_start_E1[0] = 0;
    for (size_t e = 0; e < counts.size(); ++e)
      made.host.expert_start_E1[e + 1] = made.host.expert_start_E1[e] + static_cast<int32_t>(counts[e]);
    gpu_->upload(made.memory.gpu.view.data, made.memory.host.view.data, made.memory.host.view.bytes());
    return made;
  }

  TwinWeights weights(int64_t count, int64_t n, int64_t k, DType dtype) {
    TwinWeights made;
    for (int64_t i = 0; i < count; ++i) {
      const Twin rows = random(DType::f32, {n, k}, 0.1F);
      for (Ops* ops : {reference_.get(), ops_.get()}) {
        auto w = ops->make_matrix(n, k, dtype);
        ops->load_rows(*w, 0, rows.host);
        (ops == ops_.get() ? made.gpu : made.host).push_back(w.get());
        made.owned.push_back(std::move(w));
      }
    }
    return made;
  }

  Twin filled(const Shape& shape, const std::function<float(int64_t)>& value) {
    Twin twin = poisoned(DType::f32, shape);
    for (int64_t i = 0; i < shape.elements(); ++i) twin.host.view.as<float>()[i] = value(i);
    gpu_->upload(twin.gpu.view.data, twin.host.view.data, twin.host.view.bytes());
    return twin;
  }

  /// Random, but no token's choice so close that rounding decides it.
  Twin clear_logits(int64_t tokens, int64_t experts, int64_t chosen, const GateView& gate) {
    std::normal_distribution<float> normal(0, 2);
    std::vector<float> logits_E(static_cast<size_t>(experts));
    return filled({tokens, experts}, [&](int64_t i) {
      for (bool drawn = i % experts != 0; !drawn; drawn = is_clear(logits_E, chosen, gate))
        for (float& x : logits_E) x = normal(random_);
      return logits_E[static_cast<size_t>(i % experts)];
    });
  }

  void expect_routes_as_reference(const Twin& logits, int64_t chosen, const GateView& host_gate,
                                  const TensorView& gpu_correction) {
    const TwinRouting r = routing(logits.host.view.dim(0), chosen, logits.host.view.dim(1));
    GateView gpu_gate = host_gate;
    gpu_gate.correction_E = gpu_correction;
    ops_->route(r.gpu, logits.gpu, gpu_gate);
    reference_->route(r.host, logits.host, host_gate);
    std::vector<int32_t> found(static_cast<size_t>(r.memory.gpu.view.dim(0)));
    gpu_->download(found.data(), r.memory.gpu.view.data, r.memory.gpu.view.bytes());
    const auto* expected = r.memory.host.view.as<const int32_t>();
    const int64_t pairs = r.host.tokens * chosen;
    for (int64_t i = pairs; i < std::ssize(found); ++i)  // slots, tokens, starts
      ASSERT_EQ(found[static_cast<size_t>(i)], expected[i]) << "word " << i << ", " << pairs << " pairs";
    for (int64_t pair = 0; pair < pairs; ++pair) {
      float weight = 0;
      std::memcpy(&weight, &found[static_cast<size_t>(pair)], sizeof weight);
      ASSERT_NEAR(weight, r.host.weights_TC[pair], 1e-5F * r.host.weights_TC[pair]) << "pair " << pair;
    }
  }

  /// x_TD += what the experts give, for tokens of h_TD; as stages/moe.cpp does it.
  struct Chain {
    TwinWeights gate_up, down;
    int64_t chosen, experts, hidden, width;
    DType dtype;
    // Of the GPU.
    Tensor routing, h_SD, gate_up_S2F, y_SF, y_SD;
  };
  Chain chain(int64_t most_tokens, int64_t chosen, int64_t experts, int64_t hidden, int64_t width,
              DType dtype) {
    const int64_t pairs = most_tokens * chosen;
    return {weights(experts, 2 * width, hidden, dtype),
            weights(experts, hidden, width, dtype),
            chosen,
            experts,
            hidden,
            width,
            dtype,
            gpu_->tensor(DType::i32,
                         {static_cast<int64_t>(RoutingView::bytes(most_tokens, chosen, experts) / 4)}),
            gpu_->tensor(dtype, {pairs, hidden}),
            gpu_->tensor(DType::f32, {pairs, 2 * width}),
            gpu_->tensor(dtype, {pairs, width}),
            gpu_->tensor(DType::f32, {pairs, hidden})};
  }
  void run(const Chain& c, const TensorView& x_TD, const TensorView& h_TD, const TensorView& logits_TE,
           const GateView& gate) {
    const int64_t tokens = h_TD.dim(0);
    const int64_t pairs = tokens * c.chosen;
    const RoutingView routing = RoutingView::over(c.routing.view.data, tokens, c.chosen, c.experts);
    ops_->route(routing, logits_TE, gate);
    ops_->gather_rows(c.h_SD.view.first(pairs), h_TD, routing.token_S);
    ops_->gated_matmul_by_expert(c.y_SF.view.first(pairs), c.gate_up_S2F.view.first(pairs),
                                 c.h_SD.view.first(pairs), c.gate_up.gpu, routing);
    ops_->matmul_by_expert(c.y_SD.view.first(pairs), c.y_SF.view.first(pairs), c.down.gpu, routing);
    ops_->combine_experts(x_TD, c.y_SD.view.first(pairs), routing);
  }
};

constexpr GateView kV2Gate{false, 8, 3, false, {}, false, 16};
constexpr GateView kV3Gate{true, 8, 4, true, {}, true, 2.5F};

TEST_F(CudaExperts, AreChosenExactlyAsTheReferenceDoes) {
  struct Case {
    int64_t tokens, chosen, experts, groups, kept;
  };
  for (const Case& c : {Case{1, 6, 64, 1, 1},
                        {64, 6, 64, 1, 1},
                        {50, 5, 24, 6, 3},
                        {300, 6, 160, 8, 3},
                        {2048, 8, 256, 8, 4},
                        {33, 1, 7, 1, 1},
                        {9, 8, 8, 8, 8},
                        {70, 10, 1000, 1, 1}}) {
    const Twin correction = random(DType::f32, {c.experts}, 0.3F);
    for (const bool sigmoid : {false, true})
      for (const bool two_best : {false, true})
        for (const bool corrected : {false, true}) {
          SCOPED_TRACE(Shape({c.tokens, c.chosen, c.experts, c.groups}).text() + (sigmoid ? " sigmoid" : "") +
                       (two_best ? " two best" : "") + (corrected ? " corrected" : ""));
          GateView gate{sigmoid, c.groups, c.kept, two_best, {}, sigmoid, 2.5F};
          if (corrected) gate.correction_E = correction.host;
          expect_routes_as_reference(clear_logits(c.tokens, c.experts, c.chosen, gate), c.chosen, gate,
                                     corrected ? correction.gpu.view : TensorView{});
        }
  }
}

TEST_F(CudaExperts, OfEqualScoresTheLowerNumberIsChosen) {
  const Twin logits =
      filled({500, 64}, [&](int64_t) { return 0.5F * static_cast<float>(1 + random_() % 4); });
  for (const int64_t groups : {1, 8, 64})
    for (const bool sigmoid : {false, true})
      expect_routes_as_reference(
          logits, 6, {sigmoid, groups, std::max<int64_t>(1, groups / 8 * 3), sigmoid, {}, false, 1}, {});
}

TEST_F(CudaExperts, ATokenWithoutNumbersDisturbsNoOther) {
  constexpr int64_t kTokens = 40;
  const Twin logits = clear_logits(kTokens, 16, 4, kV3Gate);
  const auto outcome = [&](bool broken) {
    if (broken) {
      std::fill_n(logits.host.view.as<float>() + 16 * 7, 16, std::numeric_limits<float>::quiet_NaN());
      logits.host.view.as<float>()[16 * 20 + 3] = std::numeric_limits<float>::infinity();
      gpu_->upload(logits.gpu.view.data, logits.host.view.data, logits.host.view.bytes());
    }
    const TwinRouting r = routing(kTokens, 4, 16);
    ops_->route(r.gpu, logits.gpu, kV3Gate);
    gpu_->download(r.memory.host.view.data, r.memory.gpu.view.data, r.memory.gpu.view.bytes());
    EXPECT_EQ(r.host.expert_start_E1[16], kTokens * 4);
    std::vector<int64_t> expert_of(kTokens * 4, -1);
    r.host.for_each_expert([&](int64_t e, int64_t first, int64_t count) {
      for (int64_t slot = first; slot < first + count; ++slot)
        for (int64_t pair = r.host.token_S[slot] * 4; pair < r.host.token_S[slot] * 4 + 4; ++pair)
          if (r.host.slot_TC[pair] == slot) expert_of[static_cast<size_t>(pair)] = e;
    });
    EXPECT_EQ(std::count(expert_of.begin(), expert_of.end(), -1), 0) << "a slot is of no pair";
    return expert_of;
  };
  const auto whole = outcome(false);
  const auto broken = outcome(true);
  for (size_t pair = 0; pair < whole.size(); ++pair) {
    if (pair / 4 == 7 || pair / 4 == 20) continue;
    EXPECT_EQ(broken[pair], whole[pair]) << "pair " << pair;
  }
}

TEST_F(CudaExperts, ProductsByExpertMatchTheReference) {
  const std::vector<int64_t> compositions[] = {{1},
                                               {0, 0, 3, 0},
                                               {5, 0, 1, 17, 2, 0, 0, 1},
                                               {40, 1, 0, 33, 9, 16, 8, 5},
                                               {0, 90, 64, 3, 31, 0, 65, 20},
                                               {130, 129, 1, 0, 128, 7, 300, 95}};
  for (const DType dtype : {DType::f32, DType::bf16})
    for (const DType out : {DType::f32, DType::bf16})
      for (const auto& [n, k] : {std::pair<int64_t, int64_t>(96, 64), {33, 33}, {70, 200}, {1, 8}, {160, 24}})
        for (const auto& counts : compositions) {
          SCOPED_TRACE(Shape({n, k}).text() + name_of(dtype) + name_of(out) + " " +
                       std::to_string(counts.size()));
          TwinWeights w = weights(std::ssize(counts), n, k, dtype);
          for (size_t e = 0; e < counts.size(); ++e)
            if (counts[e] == 0) w.host[e] = w.gpu[e] = nullptr;
          const TwinRouting r = routing(counts);
          const Twin x = random(dtype, {r.host.tokens, k}), y = poisoned(out, {r.host.tokens, n});
          ops_->matmul_by_expert(y.gpu, x.gpu, w.gpu, r.gpu);
          reference_->matmul_by_expert(y.host, x.host, w.host, r.host);
          expect_close(y, tolerance(out));
        }
}

TEST_F(CudaExperts, ARowHasTheSameBitsInEveryCompany) {
  constexpr int64_t kRows = 300, kExperts = 4;
  for (const DType dtype : {DType::f32, DType::bf16})
    for (const DType out : {DType::f32, DType::bf16})
      for (const auto& [n, k] : {std::pair<int64_t, int64_t>(200, 192), {128, 1408}, {65, 72}, {33, 33}}) {
        SCOPED_TRACE(Shape({n, k}).text() + name_of(dtype) + name_of(out));
        const TwinWeights w = weights(kExperts, n, k, dtype);
        const Twin x = random(dtype, {kRows, k});
        std::vector<std::vector<std::byte>> alone;  // all rows, by one expert
        for (size_t e = 0; e < kExperts; ++e) {
          std::vector<int64_t> counts(kExperts, 0);
          counts[e] = kRows;
          const TwinRouting r = routing(counts);
          const Twin y = poisoned(out, {kRows, n});
          ops_->matmul_by_expert(y.gpu, x.gpu, w.gpu, r.gpu);
          alone.push_back(bytes_of_rows(y.gpu, 0, kRows));
        }
        const size_t row_bytes = static_cast<size_t>(n) * bytes_of(out);
        for (const uint32_t most : {1U, 2U, 6U, 12U, 30U, 70U, 200U}) {
          std::vector<int64_t> counts;
          for (int64_t e = 0; e < kExperts; ++e) counts.push_back(random_() % (most + 1));
          counts[random_() % kExperts] += 1;
          const TwinRouting r = routing(counts);
          std::vector<int32_t> rows;
          for (int64_t i = 0; i < r.host.tokens; ++i) rows.push_back(static_cast<int32_t>(random_() % kRows));
          const Twin x_S = poisoned(dtype, {r.host.tokens, k}), y = poisoned(out, {r.host.tokens, n});
          ops_->gather_rows(x_S.gpu, x.gpu, of(rows).gpu.view.as<const int32_t>());
          ops_->matmul_by_expert(y.gpu, x_S.gpu, w.gpu, r.gpu);
          const std::vector<std::byte> found = bytes_of_rows(y.gpu, 0, r.host.tokens);
          r.host.for_each_expert([&](int64_t e, int64_t first, int64_t count) {
            for (auto s = static_cast<size_t>(first); s < static_cast<size_t>(first + count); ++s)
              ASSERT_EQ(std::memcmp(&found[s * row_bytes],
                                    &alone[static_cast<size_t>(e)][static_cast<size_t>(rows[s]) * row_bytes],
                                    row_bytes),
                        0)
                  << "expert " << e << ", row " << rows[s] << ", at most " << most << " rows an expert";
          });
        }
      }
}

TEST_F(CudaExperts, AGatedProductHasTheBitsOfAProductAndSwigluAfterIt) {
  for (const DType dtype : {DType::f32, DType::bf16})
    for (const DType out : {DType::f32, DType::bf16})
      for (const auto& [f, k] :
           {std::pair<int64_t, int64_t>(96, 192), {704, 128}, {40, 2048}, {33, 72}, {5, 33}})
        for (const int64_t most : {2, 7, 20, 60, 170, 400}) {
          SCOPED_TRACE(Shape({f, k, most}).text() + name_of(dtype) + name_of(out));
          const TwinWeights w = weights(4, 2 * f, k, dtype);
          std::vector<int64_t> counts;
          for (int e = 0; e < 4; ++e) counts.push_back(random_() % static_cast<uint32_t>(most));
          counts[random_() % 4] = most;
          const TwinRouting r = routing(counts);
          const int64_t rows = r.host.tokens;
          const Twin x = random(dtype, {rows, k}, 3), gate_up = poisoned(DType::f32, {rows, 2 * f}),
                     apart = poisoned(out, {rows, f}), fused = poisoned(out, {rows, f});
          ops_->matmul_by_expert(gate_up.gpu, x.gpu, w.gpu, r.gpu);
          ops_->swiglu(apart.gpu, gate_up.gpu);
          ops_->gated_matmul_by_expert(fused.gpu, poisoned(DType::f32, {rows, 2 * f}).gpu, x.gpu, w.gpu,
                                       r.gpu);
          ASSERT_TRUE(bytes_of_rows(fused.gpu, 0, rows) == bytes_of_rows(apart.gpu, 0, rows));
        }
}

TEST_F(CudaExperts, ProductsByHeadMatchTheReferenceAndLeaveTheRestAsItIs) {
  for (const DType dtype : {DType::f32, DType::bf16})
    for (const DType out : {DType::f32, DType::bf16})
      for (const auto& [n, k, y_width] :
           {std::tuple<int64_t, int64_t, int64_t>(32, 16, 40), {16, 32, 16}, {512, 128, 576}, {5, 3, 6}})
        for (const int64_t m : {1, 7, 20, 50, 150}) {
          SCOPED_TRACE(Shape({m, n, k, y_width}).text() + name_of(dtype) + name_of(out));
          const TwinWeights w = weights(3, n, k, dtype);
          const Twin x = random(dtype, {m, 3, k}), y = random(out, {m, 3, y_width});
          const std::vector<float> before = values_of(y.gpu);
          ops_->matmul_by_head(y.gpu, x.gpu, w.gpu);
          reference_->matmul_by_head(y.host, x.host, w.host);
          expect_close(y, tolerance(out));
          const std::vector<float> after = values_of(y.gpu);
          for (size_t i = 0; i < after.size(); ++i)
            if (static_cast<int64_t>(i) % y_width >= n) {
              ASSERT_EQ(after[i], before[i]) << "value " << i;
            }
        }
}

TEST_F(CudaExperts, ByHeadARowHasTheSameBitsForEveryM) {
  constexpr int64_t kMost = 700, kHeads = 5;
  for (const DType dtype : {DType::f32, DType::bf16})
    for (const auto& [n, k] : {std::pair<int64_t, int64_t>(512, 128), {128, 512}, {16, 32}}) {
      const TwinWeights w = weights(kHeads, n, k, dtype);
      const Twin x = random(dtype, {kMost, kHeads, k});
      const Twin all = poisoned(DType::f32, {kMost, kHeads, n}),
                 some = poisoned(DType::f32, {kMost, kHeads, n});
      ops_->matmul_by_head(all.gpu, x.gpu, w.gpu);
      for (const int64_t m : {1, 8, 9, 16, 17, 32, 33, 64, 65, 127, 129, 300}) {
        const int64_t first = kMost - m;
        ops_->matmul_by_head(some.gpu.view.first(m), x.gpu.view.rows(first, m), w.gpu);
        ASSERT_TRUE(bytes_of_rows(some.gpu, 0, m) == bytes_of_rows(all.gpu, first, m))
            << Shape({n, k}).text() << name_of(dtype) << " M " << m;
      }
    }
}

TEST_F(CudaExperts, TheChainMatchesTheReference) {
  constexpr int64_t kTokens = 37, kHidden = 64, kWidth = 48, kChosen = 4;
  for (const DType dtype : {DType::f32, DType::bf16})
    for (const GateView& gate : {kV2Gate, kV3Gate}) {
      const Chain c = chain(kTokens, kChosen, 16, kHidden, kWidth, dtype);
      const Twin x = random(DType::f32, {kTokens, kHidden}), h = random(dtype, {kTokens, kHidden}),
                 logits = clear_logits(kTokens, 16, kChosen, gate);
      run(c, x.gpu, h.gpu, logits.gpu, gate);

      const TwinRouting r = routing(kTokens, kChosen, 16);
      constexpr int64_t kPairs = kTokens * kChosen;
      const Tensor h_SD = host_->tensor(dtype, {kPairs, kHidden}),
                   gate_up = host_->tensor(DType::f32, {kPairs, 2 * kWidth}),
                   y_SF = host_->tensor(dtype, {kPairs, kWidth}),
                   y_SD = host_->tensor(DType::f32, {kPairs, kHidden});
      reference_->route(r.host, logits.host, gate);
      reference_->gather_rows(h_SD, h.host, r.host.token_S);
      reference_->matmul_by_expert(gate_up, h_SD, c.gate_up.host, r.host);
      reference_->swiglu(y_SF, gate_up);
      reference_->matmul_by_expert(y_SD, y_SF, c.down.host, r.host);
      reference_->combine_experts(x.host, y_SD, r.host);
      expect_close(x, tolerance(dtype));
    }
}

TEST_F(CudaExperts, RecordedForOneRoutingTheChainServesAnyOther) {
  constexpr int64_t kTokens = 24, kHidden = 128, kWidth = 72;
  for (const DType dtype : {DType::f32, DType::bf16}) {
    const Chain c = chain(kTokens, 6, 64, kHidden, kWidth, dtype);
    const Twin x = random(DType::f32, {kTokens, kHidden}), h = random(dtype, {kTokens, kHidden}),
               logits = random(DType::f32, {kTokens, 64}, 2);
    const auto ask = [&] { run(c, x.gpu, h.gpu, logits.gpu, kV3Gate); };
    ask();
    const std::unique_ptr<Recording> recording = gpu_->record(ask);
    for (int time = 0; time < 5; ++time) {
      const Twin next_h = random(dtype, {kTokens, kHidden}),
                 next_logits = random(DType::f32, {kTokens, 64}, 2),
                 next_x = random(DType::f32, {kTokens, kHidden});
      gpu_->upload(h.gpu.view.data, next_h.host.view.data, next_h.host.view.bytes());
      gpu_->upload(logits.gpu.view.data, next_logits.host.view.data, next_logits.host.view.bytes());
      gpu_->upload(x.gpu.view.data, next_x.host.view.data, next_x.host.view.bytes());
      recording->replay();
      run(c, next_x.gpu, next_h.gpu, next_logits.gpu, kV3Gate);
      ASSERT_TRUE(bytes_of_rows(x.gpu, 0, kTokens) == bytes_of_rows(next_x.gpu, 0, kTokens));
    }
  }
}

TEST_F(CudaExperts, ATokensBitsDoNotDependOnItsCompany) {
  constexpr int64_t kTokens = 400, kHidden = 128, kWidth = 72;
  for (const DType dtype : {DType::f32, DType::bf16}) {
    const Chain c = chain(kTokens, 4, 16, kHidden, kWidth, dtype);
    const Twin x = random(DType::f32, {kTokens, kHidden}), h = random(dtype, {kTokens, kHidden}),
               logits = random(DType::f32, {kTokens, 16}, 2);
    const Twin together = copy_of(x);
    run(c, together.gpu, h.gpu, logits.gpu, kV3Gate);
    for (const int64_t count : {1, 3, 20, 90, 250}) {
      const Twin part = copy_of(x);
      const auto first = static_cast<int64_t>(random_() % static_cast<uint32_t>(kTokens - count));
      run(c, part.gpu.view.rows(first, count), h.gpu.view.rows(first, count),
          logits.gpu.view.rows(first, count), kV3Gate);
      ASSERT_TRUE(bytes_of_rows(part.gpu, first, count) == bytes_of_rows(together.gpu, first, count))
          << count << " tokens from " << first;
    }
    // Rows that fill a step up may hold anything.
    for (const TensorView& t : {h.gpu.view, logits.gpu.view}) {
      const std::vector<uint32_t> nans(t.rows(300, 100).bytes() / 4, 0x7FC07FC0);
      gpu_->upload(t.rows(300, 100).data, nans.data(), t.rows(300, 100).bytes());
    }
    const Twin filled_up = copy_of(x);
    run(c, filled_up.gpu, h.gpu, logits.gpu, kV3Gate);
    ASSERT_TRUE(bytes_of_rows(filled_up.gpu, 0, 300) == bytes_of_rows(together.gpu, 0, 300));
  }
}

}  // namespace
}  // namespace penstock::test
