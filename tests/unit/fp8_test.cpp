// FP8 numbers, weights quantized in blocks, and products with weights held in FP8.
#include "runtime/model/fp8.h"

#include "kernels/cpu/fp8_rows.h"
#include "tests/unit/kernel_testing.h"

namespace penstock::testing {
namespace {

TEST(Fp8, EveryNumberComesBackFromItsFloat) {
  for (int bits = 0; bits < 256; ++bits) {
    const auto code = static_cast<uint8_t>(bits);
    const float value = f32_from_e4m3(code);
    EXPECT_EQ(std::isnan(value), (bits & 0x7F) == 0x7F);
    const int back = e4m3_from_f32(value);
    EXPECT_EQ(std::isnan(value) ? back & 0x7F : back, std::isnan(value) ? 0x7F : bits);
  }
}

TEST(Fp8, RoundsToNearestEvenAndSaturates) {
  EXPECT_EQ(f32_from_e4m3(0x7E), 448.0F);
  EXPECT_EQ(f32_from_e4m3(0x01), 0x1p-9F);
  EXPECT_EQ(f32_from_e4m3(e4m3_from_f32(1e9F)), 448.0F);
  EXPECT_EQ(f32_from_e4m3(e4m3_from_f32(-450.0F)), -448.0F);
  EXPECT_EQ(f32_from_e4m3(e4m3_from_f32(1.0625F)), 1.0F);  // halfway between 1 and 1.125
  EXPECT_EQ(f32_from_e4m3(e4m3_from_f32(1.1875F)), 1.25F);
  EXPECT_EQ(f32_from_e4m3(e4m3_from_f32(0x1.8p-10F)), 0x1p-9F);
  EXPECT_EQ(f32_from_e4m3(e4m3_from_f32(0x1p-10F)), 0.0F);
  EXPECT_EQ(f32_from_e4m3(e4m3_from_f32(1.97F)), 2.0F);  // into the next exponent
}

TEST(Fp8, EachBlockHasAScaleOfItsOwn) {
  std::vector<float> weight(3 * 5, 1.0F);
  weight[0] = 100;  // of block 0, 0
  weight[14] = 0.01F;
  const Fp8Weight fp8 = quantize_blocks(weight, 3, 5, {2, 4});
  ASSERT_EQ(fp8.scales.size(), 4U);
  EXPECT_FLOAT_EQ(fp8.scales[0], 100 / 448.0F);
  EXPECT_FLOAT_EQ(fp8.scales[1], 1 / 448.0F);
  EXPECT_FLOAT_EQ(fp8.scales[3], 0.01F / 448.0F);
  EXPECT_EQ(f32_from_e4m3(fp8.values[0]), 448.0F);
}

class Fp8Test : public OnEveryKernelTable {};

TEST_P(Fp8Test, AProductIsThatOfTheWidenedWeightsAndKeepsItsBitsInAnyCompany) {
  const auto fast = ops(2);
  for (const DType dtype : {DType::f32, DType::bf16})
    for (const auto& [n, k] : {std::pair<int64_t, int64_t>(70, 300), {32, 128}, {5, 7}, {64, 1300}}) {
      const Shape shape{n, k};
      SCOPED_TRACE(shape.text() + name_of(dtype));
      const int64_t blocks = blocks_over(k, kFp8Columns);
      std::vector<uint8_t> bytes(static_cast<size_t>(n * k));
      for (uint8_t& b : bytes) b = e4m3_from_f32(values_.uniform(-400, 400));
      bytes[0] = 0x01;  // subnormal
      const Tensor scales = values_.random(DType::f32, {n, blocks}, 0.01F);
      const TensorView rows{bytes.data(), DType::e4m3, {n, k}};
      const auto matrix = fast->make_fp8_matrix(n, k, dtype);
      const int64_t first = std::min<int64_t>(n, 33);  // in two parts that meet within a panel
      fast->load_fp8_rows(*matrix, 0, rows.rows(0, first), scales.view.rows(0, first));
      fast->load_fp8_rows(*matrix, first, rows.rows(first, n - first), scales.view.rows(first, n - first));
      EXPECT_LT(matrix->bytes(), static_cast<size_t>((n + 31) * (k + 128)) * 17 / 16 + 32 * 4 * 128);

      const Tensor x = values_.random(dtype, {20, k});
      const std::vector<float> widened = cpu::dequantized(rows, scales);
      Tensor expected = device_->tensor(DType::f32, {20, n});
      for (int64_t t = 0; t < 20; ++t)
        for (int64_t j = 0; j < n; ++j) {
          double sum = 0;
          for (int64_t i = 0; i < k; ++i)
            sum += static_cast<double>(at(x, t * k + i)) *
                   static_cast<double>(widened[static_cast<size_t>(j * k + i)]);
          expected.view.as<float>()[t * n + j] = static_cast<float>(sum);
        }
      const Tensor y = values_.poisoned(DType::f32, {20, n});
      fast->matmul(y, x, *matrix, {}, Into::overwrite);
      expect_close(y, expected, 2e-4, 1e-5);
      for (int64_t t = 0; t < 20; ++t) {
        const Tensor alone = values_.poisoned(DType::f32, {1, n});
        fast->matmul(alone, x.view.rows(t, 1), *matrix, {}, Into::overwrite);
        ASSERT_TRUE(same_bits(alone, y.view.rows(t, 1))) << "row " << t;
      }
    }
}

INSTANTIATE_TEST_SUITE_P(Kernels, Fp8Test, ::testing::ValuesIn(cpu::available_kernels()), kernel_name);

}  // namespace
}  // namespace penstock::testing
