// For tests of the CUDA back end: the same tensors on the host, for the reference, and on the GPU.
#pragma once

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <limits>
#include <random>
#include <vector>

#include "kernels/cpu/number.h"
#include "kernels/ops.h"

namespace penstock::test {

/// One tensor twice.
struct Twin {
  Tensor host;
  Tensor gpu;
};

/// Skips where there is no GPU.
class CudaTest : public ::testing::Test {
 protected:
  void SetUp() override {
    try {
      gpu_ = make_cuda_device(0);
    } catch (const UsageError& e) {
      GTEST_SKIP() << e.what();
    }
    ops_ = make_cuda_ops(*gpu_);
    reference_ = make_reference_ops(*host_);
    const auto seed = static_cast<uint32_t>(::testing::UnitTest::GetInstance()->random_seed());
    random_.seed(seed == 0 ? std::random_device{}() : seed);
  }

  Twin random(DType dtype, const Shape& shape, float scale = 1) {
    Twin twin = empty(dtype, shape);
    std::normal_distribution<float> normal(0, scale);
    for (int64_t i = 0; i < shape.elements(); ++i) cpu::write(twin.host.view.data, dtype, i, normal(random_));
    gpu_->upload(twin.gpu.view.data, twin.host.view.data, twin.host.view.bytes());
    return twin;
  }

  /// NaN everywhere, so that what is not written shows.
  Twin poisoned(DType dtype, const Shape& shape) {
    Twin twin = empty(dtype, shape);
    for (int64_t i = 0; i < shape.elements(); ++i)
      cpu::write(twin.host.view.data, dtype, i, std::numeric_limits<float>::quiet_NaN());
    gpu_->upload(twin.gpu.view.data, twin.host.view.data, twin.host.view.bytes());
    return twin;
  }

  /// Every bit set, which is NaN in every float: for what is not read as values of its dtype.
  Twin bytes_of_ones(DType dtype, const Shape& shape) {
    Twin twin = empty(dtype, shape);
    std::memset(twin.host.view.data, 0xFF, twin.host.view.bytes());
    gpu_->upload(twin.gpu.view.data, twin.host.view.data, twin.host.view.bytes());
    return twin;
  }

  Twin of(const std::vector<int32_t>& values) {
    Twin twin = empty(DType::i32, {static_cast<int64_t>(values.size())});
    std::memcpy(twin.host.view.data, values.data(), twin.host.view.bytes());
    gpu_->upload(twin.gpu.view.data, values.data(), twin.host.view.bytes());
    return twin;
  }

  Twin copy_of(const Twin& from) {
    Twin twin = empty(from.host.view.dtype, from.host.view.shape);
    std::memcpy(twin.host.view.data, from.host.view.data, from.host.view.bytes());
    gpu_->upload(twin.gpu.view.data, from.host.view.data, from.host.view.bytes());
    return twin;
  }

  std::vector<float> values_of(const TensorView& gpu) {
    std::vector<std::byte> raw(gpu.bytes());
    gpu_->download(raw.data(), gpu.data, raw.size());
    std::vector<float> values(static_cast<size_t>(gpu.shape.elements()));
    for (size_t i = 0; i < values.size(); ++i)
      values[i] = cpu::read(raw.data(), gpu.dtype, static_cast<int64_t>(i));
    return values;
  }

  std::vector<std::byte> bytes_of_rows(const TensorView& gpu, int64_t first, int64_t count) {
    const size_t row = gpu.bytes() / static_cast<size_t>(gpu.dim(0));
    std::vector<std::byte> raw(static_cast<size_t>(count) * row);
    gpu_->download(raw.data(), gpu.as<std::byte>() + static_cast<size_t>(first) * row, raw.size());
    return raw;
  }

  /// |found - expected| over |expected|, both as vectors; NaN anywhere fails.
  void expect_close(const Twin& twin, double tolerance) {
    const std::vector<float> found = values_of(twin.gpu);
    double error = 0, size = 0;
    for (size_t i = 0; i < found.size(); ++i) {
      const auto expected =
          static_cast<double>(cpu::read(twin.host.view.data, twin.host.view.dtype, static_cast<int64_t>(i)));
      error += std::pow(static_cast<double>(found[i]) - expected, 2);
      size += expected * expected;
    }
    EXPECT_LE(std::sqrt(error / size), tolerance);
  }

  /// Of a narrow cache, since the last call of this.
  CacheRounding rounding_so_far() {
    gpu_->synchronize();
    ops_->take_cache_rounding();
    gpu_->synchronize();
    return ops_->take_cache_rounding();
  }

  static double tolerance(DType dtype) { return dtype == DType::bf16 ? 0x1p-7 : 2e-6; }

  std::unique_ptr<Device> host_ = make_cpu_device();
  std::unique_ptr<Device> gpu_;
  std::unique_ptr<Ops> ops_;
  std::unique_ptr<Ops> reference_;
  std::mt19937 random_;

 private:
  Twin empty(DType dtype, const Shape& shape) {
    return {host_->tensor(dtype, shape), gpu_->tensor(dtype, shape)};
  }
};

}  // namespace penstock::test
