// The product with SwiGLU in its epilogue has, bit for bit, the results of the product followed by swiglu.
#include <functional>

#include "kernels/cuda/elementwise.h"
#include "kernels/cuda/gated_hopper.h"
#include "kernels/cuda/matmul.h"
#include "kernels/cuda/skinny.h"
#include "tests/unit/cuda_fixtures.h"

namespace penstock::test {
namespace {

class CudaGated : public CudaTest {
 protected:
  void SetUp() override {
    CudaTest::SetUp();
    if (IsSkipped()) return;
    const CudaDevice& device = as_cuda(*gpu_);
    stream_ = device.stream();
    multiprocessors_ = device.multiprocessors();
    if (device.architecture() != "sm_90") GTEST_SKIP() << "the kernel is for Hopper";
  }

  std::unique_ptr<Matrix> random_matrix(int64_t n, int64_t k) {
    auto w = ops_->make_matrix(n, k, DType::bf16);
    cuda::fill_random(stream_, weight(*w));
    return w;
  }
  static const TensorView& weight(const Matrix& w) {
    return dynamic_cast<const cuda::DenseMatrix&>(w).view();
  }

  /// What the product and swiglu make of x, as bytes.
  std::vector<std::byte> apart(const TensorView& x, const Matrix& w) {
    const int64_t m = x.dim(0), f = w.n() / 2;
    const Tensor gate_up = gpu_->tensor(DType::f32, {m, 2 * f}), y = gpu_->tensor(DType::bf16, {m, f});
    ops_->matmul(gate_up, x, w, {}, Into::overwrite);
    ops_->swiglu(y, gate_up);
    return bytes_of_rows(y, 0, m);
  }

  /// The fused kernels'.
  std::vector<std::byte> many_rows(const TensorView& x, const Matrix& w) {
    return written(x.dim(0), w, [&](void* y) {
      cuda::gated_product(stream_, y, x.data, weight(w).data, x.dim(0), w.n() / 2, w.k(), multiprocessors_);
    });
  }
  std::vector<std::byte> few_rows(const TensorView& x, const Matrix& w) {
    return written(x.dim(0), w, [&](void* y) {
      cuda::skinny_gated_product(stream_, y, x.data, weight(w).data, x.dim(0), w.n() / 2, w.k());
    });
  }

  /// What `kernel` writes, which must be m rows and nothing behind them.
  std::vector<std::byte> written(int64_t m, const Matrix& w, const std::function<void(void*)>& kernel) {
    const int64_t f = w.n() / 2, spare = 128;
    const Tensor y = gpu_->tensor(DType::bf16, {m + spare, f});
    std::vector<std::byte> poison(y.view.bytes(), std::byte{0xFF});
    gpu_->upload(y.view.data, poison.data(), poison.size());
    kernel(y.view.data);
    poison.resize(static_cast<size_t>(spare * f) * 2);
    EXPECT_TRUE(bytes_of_rows(y, m, spare) == poison);
    return bytes_of_rows(y, 0, m);
  }

  cudaStream_t stream_ = nullptr;
  int multiprocessors_ = 0;
};

TEST_F(CudaGated, HasTheBitsOfTheProductAndSwiglu) {
  for (const auto& [f, k] : {std::pair<int64_t, int64_t>(128, 64), {1000, 192}, {384, 4096}, {14336, 4096}}) {
    const auto w = random_matrix(2 * f, k);
    for (const int64_t m : {1, 3, 64, 127, 128, 129, 256, 257, 500, 1024, 2000, 4500}) {
      if (m > 2000 && k > 192) continue;
      SCOPED_TRACE(Shape({m, f, k}).text());
      const Tensor x = gpu_->tensor(DType::bf16, {m, k});
      cuda::fill_random(stream_, x);
      ASSERT_TRUE(many_rows(x, *w) == apart(x, *w));
    }
  }
}

TEST_F(CudaGated, HasThemForFewRows) {
  for (const auto& [f, k] :
       {std::pair<int64_t, int64_t>(128, 128), {1000, 384}, {384, 4096}, {14336, 4096}}) {
    const auto w = random_matrix(2 * f, k);
    for (int64_t m = 1; m <= 16; ++m) {
      SCOPED_TRACE(Shape({m, f, k}).text());
      const Tensor x = gpu_->tensor(DType::bf16, {m, k});
      cuda::fill_random(stream_, x);
      ASSERT_TRUE(few_rows(x, *w) == apart(x, *w));
    }
  }
}

TEST_F(CudaGated, HasThemForGatesOfEverySizeAndForInfinities) {
  // Any float32 is the sum of three bfloat16: one row of the weight each. Token t counts it 2^(t - 140)
  // times.
  const int64_t k = 64, f = 1024, m = 270;
  std::vector<uint16_t> w_NK(static_cast<size_t>(2 * f * k)), x_MK(static_cast<size_t>(m * k));
  for (int64_t n = 0; n < 2 * f; ++n) {
    float rest = std::ldexp(static_cast<float>(random_()), -31) * (random_() % 2 == 0 ? 1.0F : -1.0F);
    if (n % 100 == 7) rest = 0;
    for (int64_t part = 0; part < 3; ++part) {
      cpu::write(w_NK.data(), DType::bf16, n * k + part, rest);
      rest -= cpu::read(w_NK.data(), DType::bf16, n * k + part);
    }
  }
  for (int64_t t = 0; t < m; ++t)
    for (int64_t part = 0; part < 3; ++part)
      cpu::write(x_MK.data(), DType::bf16, t * k + part, std::ldexp(1.0F, static_cast<int>(t) - 140));
  const auto w = ops_->make_matrix(2 * f, k, DType::bf16);
  ops_->load_rows(*w, 0, {w_NK.data(), DType::bf16, {2 * f, k}});
  const Tensor x = gpu_->tensor(DType::bf16, {m, k});
  gpu_->upload(x.view.data, x_MK.data(), x.view.bytes());
  EXPECT_TRUE(many_rows(x, *w) == apart(x, *w));
}

TEST_F(CudaGated, TheOpGivesTheseBitsWhateverItChooses) {
  const int64_t f = 1536, k = 512;
  const auto w = random_matrix(2 * f, k);
  const Tensor x = gpu_->tensor(DType::bf16, {1500, k});
  cuda::fill_random(stream_, x);
  for (const int64_t m : {1, 7, 64, 200, 1024, 1500}) {
    const TensorView x_m = x.view.first(m);
    const Tensor gate_up = gpu_->tensor(DType::f32, {m, 2 * f});
    const Twin y = poisoned(DType::bf16, {m, f});
    for (int again = 0; again < 2; ++again) {
      ops_->gated_matmul(y.gpu, gate_up, x_m, *w, {});
      ASSERT_TRUE(bytes_of_rows(y.gpu, 0, m) == apart(x_m, *w)) << "M = " << m;
    }
  }
}

TEST_F(CudaGated, MatchesTheReference) {
  const int64_t m = 150, f = 320, k = 256;
  const Twin rows = random(DType::bf16, {2 * f, k}, 0.1F), x = random(DType::bf16, {m, k}),
             y = poisoned(DType::bf16, {m, f}), bias = random(DType::f32, {2 * f}),
             gate_up = poisoned(DType::f32, {m, 2 * f});
  const auto on_gpu = ops_->make_matrix(2 * f, k, DType::bf16),
             on_host = reference_->make_matrix(2 * f, k, DType::bf16);
  ops_->load_rows(*on_gpu, 0, rows.host);
  reference_->load_rows(*on_host, 0, rows.host);
  for (const bool biased : {false, true}) {
    ops_->gated_matmul(y.gpu, gate_up.gpu, x.gpu, *on_gpu, biased ? bias.gpu.view : TensorView{});
    reference_->gated_matmul(y.host, gate_up.host, x.host, *on_host, biased ? bias.host.view : TensorView{});
    expect_close(y, tolerance(DType::bf16));
  }
}

}  // namespace
}  // namespace penstock::test
