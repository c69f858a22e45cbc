#include "tests/unit/kernel_testing.h"

namespace penstock::testing {
namespace {

class Matmul : public OnEveryKernelTable {
 protected:
  std::unique_ptr<Matrix> loaded(Ops& ops, const TensorView& w_NK, DType dtype) {
    auto matrix = ops.make_matrix(w_NK.dim(0), w_NK.dim(1), dtype);
    ops.load_rows(*matrix, 0, w_NK);
    return matrix;
  }
};

TEST_P(Matmul, MatchesADoubleSumForOddShapes) {
  const auto fast = ops(2);
  const struct {
    int64_t m, n, k;
  } shapes[] = {{1, 1, 1}, {3, 5, 7}, {1, 33, 65}, {17, 70, 300}, {33, 31, 515}, {65, 40, 64}};
  for (const DType dtype : {DType::f32, DType::bf16})
    for (const auto& [m, n, k] : shapes) {
      const Tensor x = values_.random(dtype, {m, k});
      const Tensor w = values_.random(dtype, {n, k});
      const Tensor bias = values_.random(DType::f32, {n});
      const auto matrix = loaded(*fast, w, dtype);
      for (const DType out : {DType::f32, DType::bf16})
        for (const bool with_bias : {false, true})
          for (const Into into : {Into::overwrite, Into::add}) {
            SCOPED_TRACE(x.view.shape.text() + w.view.shape.text() + name_of(dtype) + name_of(out));
            const Tensor y = into == Into::add ? values_.random(out, {m, n}) : values_.poisoned(out, {m, n});
            const Tensor expected = device_->tensor(DType::f32, {m, n});
            for (int64_t i = 0; i < m; ++i)
              for (int64_t j = 0; j < n; ++j) {
                double sum = with_bias ? static_cast<double>(at(bias, j)) : 0;
                if (into == Into::add) sum += static_cast<double>(at(y, i * n + j));
                for (int64_t l = 0; l < k; ++l)
                  sum += static_cast<double>(at(x, i * k + l)) * static_cast<double>(at(w, j * k + l));
                expected.view.as<float>()[i * n + j] = static_cast<float>(sum);
              }
            fast->matmul(y, x, *matrix, with_bias ? TensorView(bias) : TensorView{}, into);
            expect_close(y, expected, 5e-5, rounding(out));  // sums of up to 515 terms
          }
    }
}

TEST_P(Matmul, RowsHaveTheSameBitsForEveryMAndEveryThreadCount) {
  constexpr int64_t kRows = 1100;  // more than one pass over the weight
  constexpr int64_t kN = 70;
  constexpr int64_t kK = 1102;  // two blocks of K in either dtype, and a rest
  for (const DType dtype : {DType::f32, DType::bf16}) {
    const Tensor x = values_.random(dtype, {kRows, kK});
    const Tensor w = values_.random(dtype, {kN, kK});
    const auto one = ops(1);
    const auto matrix = loaded(*one, w, dtype);
    const Tensor alone = values_.poisoned(DType::f32, {kRows, kN});
    const auto row_of = [&](const TensorView& t, int64_t row, int64_t rows) {
      const int64_t width = t.dim(1);
      return TensorView{
          t.as<char>() + static_cast<size_t>(row * width) * bytes_of(t.dtype), t.dtype, {rows, width}};
    };
    for (int64_t row = 0; row < kRows; ++row)
      one->matmul(row_of(alone, row, 1), row_of(x, row, 1), *matrix, {}, Into::overwrite);
    for (const int threads : {1, 2, 3}) {
      const auto team = ops(threads);
      const auto check = [&](int64_t m) {
        const Tensor y = values_.poisoned(DType::f32, {m, kN});
        team->matmul(y, x.view.first(m), *matrix, {}, Into::overwrite);
        ASSERT_TRUE(same_bits(y, alone.view.first(m))) << "M = " << m << ", threads = " << threads;
      };
      for (int64_t m = 1; m <= 40; ++m) check(m);
      for (const int64_t m : {64, 100, 257, 512, 513}) check(m);
    }
    const Tensor all = values_.poisoned(DType::f32, {kRows, kN});
    ops(2)->matmul(all, x, *matrix, {}, Into::overwrite);
    EXPECT_TRUE(same_bits(all, alone));
  }
}

TEST_P(Matmul, GatedHasTheBitsOfTheProductAndThenSwiglu) {
  constexpr int64_t kK = 1102;
  for (const DType dtype : {DType::f32, DType::bf16})
    for (const int64_t f : {64, 96, 37}) {
      const Tensor w = values_.random(dtype, {2 * f, kK});
      const Tensor bias = values_.random(DType::f32, {2 * f});
      for (const int threads : {1, 3}) {
        const auto team = ops(threads);
        const auto matrix = loaded(*team, w, dtype);
        for (const int64_t m : {1, 3, 14, 15, 64, 300})
          for (const DType out : {DType::f32, DType::bf16})
            for (const TensorView& b : {TensorView{}, bias.view}) {
              const Tensor x = values_.random(dtype, {m, kK});
              const Tensor gate_up = values_.poisoned(DType::f32, {m, 2 * f});
              const Tensor expected = values_.poisoned(out, {m, f});
              const Tensor found = values_.poisoned(out, {m, f});
              team->matmul(gate_up, x, *matrix, b, Into::overwrite);
              team->swiglu(expected, gate_up);
              team->gated_matmul(found, values_.poisoned(DType::f32, {m, 2 * f}), x, *matrix, b);
              ASSERT_TRUE(same_bits(found, expected)) << "M = " << m << ", F = " << f << name_of(dtype);
            }
      }
    }
}

TEST_P(Matmul, TakesAWeightInPiecesOfAnyDtype) {
  constexpr int64_t kN = 77;
  constexpr int64_t kK = 51;
  const auto fast = ops(2);
  const Tensor w = values_.random(DType::f32, {kN, kK});
  const Tensor x = values_.random(DType::bf16, {4, kK});
  const Tensor rounded = device_->tensor(DType::bf16, {kN, kK});
  for (int64_t i = 0; i < kN * kK; ++i) cpu::write(rounded.view.data, DType::bf16, i, at(w, i));
  const auto whole = loaded(*fast, rounded, DType::bf16);
  const auto pieces = fast->make_matrix(kN, kK, DType::bf16);
  for (int64_t first = 0; first < kN; first += 20)
    fast->load_rows(*pieces, first,
                    {w.view.as<float>() + first * kK, DType::f32, {std::min<int64_t>(20, kN - first), kK}});
  const Tensor a = values_.poisoned(DType::f32, {4, kN});
  const Tensor b = values_.poisoned(DType::f32, {4, kN});
  fast->matmul(a, x, *whole, {}, Into::overwrite);
  fast->matmul(b, x, *pieces, {}, Into::overwrite);
  EXPECT_TRUE(same_bits(a, b));
}

TEST_P(Matmul, LeavesRowsOutsideTheCallAlone) {
  const auto fast = ops(3);
  const Tensor w = values_.random(DType::bf16, {40, 64});
  const Tensor x = values_.random(DType::bf16, {3, 64});
  const auto matrix = loaded(*fast, w, DType::bf16);
  const Tensor y = values_.poisoned(DType::bf16, {5, 40});
  fast->matmul(y.view.first(3), x, *matrix, {}, Into::overwrite);
  for (int64_t i = 0; i < 5 * 40; ++i) EXPECT_EQ(std::isnan(at(y, i)), i >= 3 * 40) << i;
}

TEST_P(Matmul, SaysWhatWasExpectedWhenShapesDisagree) {
  const auto fast = ops(1);
  const auto matrix = loaded(*fast, values_.random(DType::bf16, {4, 8}), DType::bf16);
  const Tensor x = values_.random(DType::bf16, {2, 6});
  const Tensor y = values_.poisoned(DType::f32, {2, 4});
  try {
    fast->matmul(y, x, *matrix, {}, Into::overwrite);
    FAIL() << "accepted a row of 6 for a weight of 8 columns";
  } catch (const Error& e) {
    EXPECT_NE(std::string(e.what()).find("expected bfloat16 [2, 8], found bfloat16 [2, 6]"),
              std::string::npos)
        << e.what();
  }
}

INSTANTIATE_TEST_SUITE_P(Kernels, Matmul, ::testing::ValuesIn(cpu::available_kernels()), kernel_name);

}  // namespace
}  // namespace penstock::testing
