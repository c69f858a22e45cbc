// What the kernel tests share: random tensors, outputs that start as NaN, and every back end this processor
// can run.
#pragma once

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include "kernels/cpu/cpu_ops.h"
#include "kernels/cpu/number.h"

namespace penstock::testing {

constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

class Values {
 public:
  explicit Values(Device& device, uint32_t seed = 1) : device_(device), engine_(seed) {}

  float uniform(float low, float high) { return std::uniform_real_distribution<float>(low, high)(engine_); }
  std::mt19937& engine() { return engine_; }

  Tensor random(DType dtype, Shape shape, float bound = 1) {
    Tensor t = device_.tensor(dtype, shape);
    for (int64_t i = 0; i < shape.elements(); ++i) cpu::write(t.view.data, dtype, i, uniform(-bound, bound));
    return t;
  }
  /// For outputs: whatever an operation does not write stays NaN.
  Tensor poisoned(DType dtype, Shape shape) {
    Tensor t = device_.tensor(dtype, shape);
    for (int64_t i = 0; i < shape.elements(); ++i) cpu::write(t.view.data, dtype, i, kNan);
    return t;
  }

 private:
  Device& device_;
  std::mt19937 engine_;
};

inline float at(const TensorView& t, int64_t i) {
  return cpu::read(t.data, t.dtype, i);
}

inline bool same_bits(const TensorView& a, const TensorView& b) {
  return a.bytes() == b.bytes() && std::memcmp(a.data, b.data, a.bytes()) == 0;
}

/// |found - expected| <= absolute + relative |expected|, everywhere; NaN fails.
inline void expect_close(const TensorView& found, const TensorView& expected, double absolute,
                         double relative) {
  ASSERT_EQ(found.shape.elements(), expected.shape.elements());
  for (int64_t i = 0; i < found.shape.elements(); ++i) {
    const double e = static_cast<double>(at(expected, i));
    const double f = static_cast<double>(at(found, i));
    ASSERT_TRUE(std::abs(f - e) <= absolute + relative * std::abs(e))
        << "element " << i << ": expected " << e << ", found " << f;
  }
}

/// Rounding of the last step into `dtype`, as a relative error.
inline double rounding(DType dtype) {
  return dtype == DType::bf16 ? 0x1p-8 : 0x1p-22;
}

/// A suite that runs once for each set of kernels.
class OnEveryKernelTable : public ::testing::TestWithParam<const cpu::KernelTable*> {
 protected:
  std::unique_ptr<Ops> ops(int threads) { return cpu::make_ops(*device_, threads, *GetParam()); }

  std::unique_ptr<Device> device_ = make_cpu_device();
  Values values_{*device_};
};

inline std::string kernel_name(const ::testing::TestParamInfo<const cpu::KernelTable*>& info) {
  return info.param->name;
}

}  // namespace penstock::testing
