// Vectors of the KV cache in one byte a value: which codes, which scale, and how many bytes.
#include "runtime/model/kv_cache.h"

#include "kernels/cpu/reference_cache.h"
#include "runtime/model/fp8.h"
#include "tests/unit/kernel_testing.h"

namespace penstock::testing {
namespace {

class KvFormatTest : public OnEveryKernelTable {
 protected:
  const cpu::ScaledFormat& format(DType dtype) const {
    return dtype == DType::e4m3 ? GetParam()->e4m3 : GetParam()->int8;
  }
  /// As the reference keeps them: the scale, then the codes.
  std::vector<char> quantized(DType dtype, const std::vector<float>& values) const {
    std::vector<char> bytes(sizeof(float) + values.size());
    const float scale = format(dtype).quantize(reinterpret_cast<uint8_t*>(bytes.data()) + sizeof(float),
                                               values.data(), static_cast<int64_t>(values.size()));
    std::memcpy(bytes.data(), &scale, sizeof scale);
    return bytes;
  }
  static std::vector<char> by_reference(DType dtype, const std::vector<float>& values) {
    std::vector<char> bytes(sizeof(float) + values.size());
    cpu::write_vector(bytes.data(), dtype, values);
    return bytes;
  }
};

TEST_P(KvFormatTest, StoresTheBytesOfTheReference) {
  for (const DType dtype : {DType::e4m3, DType::i8})
    for (const size_t count : {size_t{1}, size_t{22}, size_t{64}, size_t{100}, size_t{512}})
      for (int round = 0; round < 50; ++round) {
        const float bound = std::pow(10.0F, values_.uniform(-20, 20));
        std::vector<float> values(count);
        for (float& v : values)
          v = values_.uniform(0, 1) < 0.1F ? 0 : bound * std::pow(values_.uniform(-1, 1), 5.0F);
        ASSERT_EQ(quantized(dtype, values), by_reference(dtype, values)) << name_of(dtype) << " " << count;
      }
}

TEST_P(KvFormatTest, RoundsEveryFp8NumberAndWhatLiesBetweenAsTheDefinitionDoes) {
  std::vector<float> values{kLargestE4m3};  // so the scale is 1
  for (int code = 0; code < 0x7E; ++code) {
    const float here = f32_from_e4m3(static_cast<uint8_t>(code));
    const float next = f32_from_e4m3(static_cast<uint8_t>(code + 1));
    const float middle = (here + next) / 2;
    for (const float v : {here, middle, std::nextafter(middle, 0.0F), std::nextafter(middle, 1000.0F)})
      values.insert(values.end(), {v, -v});
  }
  const std::vector<char> bytes = quantized(DType::e4m3, values);
  for (size_t i = 0; i < values.size(); ++i)
    ASSERT_EQ(static_cast<uint8_t>(bytes[sizeof(float) + i]), e4m3_from_f32(values[i])) << values[i];
}

TEST_P(KvFormatTest, GivesBackWhatItStored) {
  for (const DType dtype : {DType::e4m3, DType::i8})
    for (const int64_t count : {1, 15, 16, 33, 512}) {
      std::vector<float> values(static_cast<size_t>(count));
      for (float& v : values) v = values_.uniform(-3, 3);
      const std::vector<char> bytes = quantized(dtype, values);
      float scale = 0;
      std::memcpy(&scale, bytes.data(), sizeof scale);
      std::vector<float> found(values.size() + 1, 7);
      format(dtype).widen(found.data(), reinterpret_cast<const uint8_t*>(bytes.data()) + sizeof scale, count,
                          scale);
      const std::vector<double> expected = cpu::read_vector(bytes.data(), dtype, count);
      for (size_t i = 0; i < values.size(); ++i) {
        ASSERT_FLOAT_EQ(found[i], static_cast<float>(expected[i]));
        ASSERT_NEAR(found[i], values[i],
                    dtype == DType::i8 ? 0.51F * scale : std::abs(values[i]) / 16 + scale);
      }
      ASSERT_EQ(found.back(), 7) << "wrote behind the end";
    }
}

TEST_P(KvFormatTest, KeepsNothingOfZerosAndHidesNoNan) {
  for (const DType dtype : {DType::e4m3, DType::i8}) {
    const auto first_of = [&](const std::vector<float>& values) {
      return cpu::read_vector(quantized(dtype, values).data(), dtype, 2)[0];
    };
    EXPECT_EQ(first_of({0, 0}), 0);
    EXPECT_EQ(first_of({1e-44F, 0}), 0) << "too small for a scale";
    EXPECT_TRUE(std::isnan(first_of({1, kNan})));
    EXPECT_FALSE(std::isfinite(first_of({1, std::numeric_limits<float>::infinity()})));
  }
}

INSTANTIATE_TEST_SUITE_P(Kernels, KvFormatTest, ::testing::ValuesIn(cpu::available_kernels()), kernel_name);

TEST(KvCacheBytes, CountTheScales) {
  EXPECT_EQ(kv_position_bytes(8, 128, DType::f32), 2 * 8 * 128 * 4);
  EXPECT_EQ(kv_position_bytes(8, 128, DType::bf16), 2 * 8 * 128 * 2);
  EXPECT_EQ(kv_position_bytes(8, 128, DType::e4m3), 2 * 8 * (128 + 4));
  EXPECT_EQ(kv_position_bytes(8, 128, DType::i8), 2 * 8 * (128 + 4));
  EXPECT_EQ(latent_position_bytes(512, 64, DType::bf16), 576 * 2);
  EXPECT_EQ(latent_position_bytes(512, 64, DType::e4m3), 512 + 4 + 64 + 4);
}

}  // namespace
}  // namespace penstock::testing
