// Products with weights kept in FP8 on a GPU, in both forms: by wgmma, with inputs rounded to FP8, and by
// widening the codes. The first against what its own rounded inputs give in float64.
#include <algorithm>
#include <numeric>

#include "kernels/cuda/fp8_matrix.h"
#include "kernels/cuda/fp8_product.h"
#include "kernels/cuda/pointer_arrays.h"
#include "runtime/device/cuda_device.h"
#include "runtime/model/fp8.h"
#include "tests/unit/cuda_fixtures.h"

namespace penstock::test {
namespace {

/// How a product is made.
struct Form {
  const char* name;
  DType dtype;     // of the inputs
  bool on_hopper;  // wgmma multiplies inputs that are rounded to FP8
};

struct Weight {
  int64_t n, k;
  std::vector<double> values;  // n x k
  std::unique_ptr<Matrix> gpu;

  const cuda::Fp8Matrix& fp8() const { return dynamic_cast<const cuda::Fp8Matrix&>(*gpu); }
};

class CudaFp8 : public CudaTest {
 protected:
  void SetUp() override {
    CudaTest::SetUp();
    if (IsSkipped()) return;
    memory_ = gpu_->allocate(kWorkspaceBytes);
    workspace_ = {memory_.get(), kWorkspaceBytes};
    multiprocessors_ = device().multiprocessors();
    forms_ = {{"float32", DType::f32, false}, {"bfloat16, widened", DType::bf16, false}};
    if (device().architecture() == "sm_90") forms_.push_back({"bfloat16, in FP8", DType::bf16, true});
  }

  CudaDevice& device() { return as_cuda(*gpu_); }

  /// Rows come in parts that begin anywhere; scales differ from row to row.
  Weight weight(int64_t n, int64_t k, DType dtype) {
    Weight w{n, k, std::vector<double>(static_cast<size_t>(n * k)), ops_->make_fp8_matrix(n, k, dtype)};
    const int64_t blocks = blocks_over(k, kFp8Columns);
    std::vector<uint8_t> codes(static_cast<size_t>(n * k));
    for (uint8_t& code : codes) do
        code = static_cast<uint8_t>(random_());
      while ((code & 0x7F) == 0x7F);
    const Tensor scales = host_->tensor(DType::f32, {n, blocks});
    std::uniform_real_distribution<float> uniform(1e-4F, 1e-3F);
    for (int64_t i = 0; i < n * blocks; ++i) scales.view.as<float>()[i] = uniform(random_);
    for (int64_t i = 0; i < n * k; ++i)
      w.values[static_cast<size_t>(i)] =
          static_cast<double>(f32_from_e4m3(codes[static_cast<size_t>(i)])) *
          static_cast<double>(scales.view.as<float>()[i / k * blocks + i % k / kFp8Columns]);
    const TensorView rows{codes.data(), DType::e4m3, {n, k}};
    for (int64_t at = 0, part = (n + 2) / 3; at < n; at += part, part = n - at)
      ops_->load_fp8_rows(*w.gpu, at, rows.rows(at, part), scales.view.rows(at, part));
    return w;
  }

  /// What the kernels make of inputs.
  std::vector<double> as_multiplied(const Form& form, const Twin& x) {
    const int64_t k = x.host.view.dim(1);
    std::vector<double> values;
    for (int64_t i = 0; i < x.host.view.shape.elements(); ++i)
      values.push_back(static_cast<double>(cpu::read(x.host.view.data, form.dtype, i)));
    if (!form.on_hopper) return values;
    for (size_t row = 0; row < values.size(); row += static_cast<size_t>(k))
      for (int64_t first = 0; first < k; first += kFp8Columns) {
        const auto begin = values.begin() + static_cast<std::ptrdiff_t>(row) + first;
        const auto end = begin + std::min(kFp8Columns, k - first);
        float largest = 0;
        for (auto v = begin; v != end; ++v) largest = std::max(largest, std::abs(static_cast<float>(*v)));
        const float widest = kLargestE4m3 / largest;
        for (auto v = begin; v != end; ++v)
          *v = static_cast<double>(f32_from_e4m3(e4m3_from_f32(static_cast<float>(*v) * widest))) *
               static_cast<double>(largest / kLargestE4m3);
      }
    return values;
  }

  /// y = or += rows [first, first + count) of x times w, and `bias`; in float64.
  static void multiply(const Twin& y, const std::vector<double>& x, const Weight& w, int64_t first,
                       int64_t count, const float* bias = nullptr, bool add = false) {
    const TensorView& to = y.host.view;
    for (int64_t t = first; t < first + count; ++t)
      for (int64_t j = 0; j < w.n; ++j) {
        const int64_t at = t * w.n + j;
        const double sum = std::inner_product(x.begin() + t * w.k, x.begin() + (t + 1) * w.k,
                                              w.values.begin() + j * w.k, 0.0);
        const double before = add ? static_cast<double>(cpu::read(to.data, to.dtype, at)) : 0;
        cpu::write(to.data, to.dtype, at,
                   static_cast<float>(before + sum + (bias == nullptr ? 0.0 : static_cast<double>(bias[j]))));
      }
  }

  void run(const Form& form, const TensorView& y, const TensorView& x, const Weight& w,
           const float* bias = nullptr, bool add = false) {
    const cuda::GroupedProblem rows{x.data, y.data, nullptr, nullptr, 1, x.dim(0), w.n, w.k, w.k, 0, w.n, 0};
    cuda::fp8_product(device().stream(), {rows, form.dtype, y.dtype, w.fp8().data(), bias, add}, workspace_,
                      {multiprocessors_, form.on_hopper});
  }
  /// Group g has counts[g] rows.
  void run(const Form& form, const TensorView& y, const TensorView& x, const std::vector<Weight>& weights,
           const std::vector<int64_t>& counts) {
    std::vector<const void*> data;
    std::vector<int32_t> starts{0};
    for (size_t g = 0; g < counts.size(); ++g) {
      data.push_back(counts[g] > 0 ? weights[g].fp8().data() : nullptr);
      starts.push_back(starts.back() + static_cast<int32_t>(counts[g]));
    }
    const Twin start = of(starts);
    const int64_t n = weights[0].n, k = weights[0].k;
    const cuda::GroupedProblem rows{x.data,
                                    y.data,
                                    arrays().of(data),
                                    start.gpu.view.as<const int32_t>(),
                                    std::ssize(counts),
                                    x.dim(0),
                                    n,
                                    k,
                                    k,
                                    0,
                                    n,
                                    0};
    cuda::fp8_product(device().stream(), {rows, form.dtype, y.dtype, nullptr, nullptr, false}, workspace_,
                      {multiprocessors_, form.on_hopper});
    gpu_->synchronize();
  }
  cuda::PointerArrays& arrays() {
    if (!arrays_) arrays_ = std::make_unique<cuda::PointerArrays>(*gpu_);
    return *arrays_;
  }

  static double tolerance_of(const Form& form, DType out) {
    return out == DType::bf16 ? 4e-3 : form.on_hopper ? 2e-3 : form.dtype == DType::bf16 ? 1e-4 : 2e-6;
  }

  static constexpr size_t kWorkspaceBytes = size_t{256} << 20;
  std::vector<Form> forms_;
  cuda::Workspace workspace_;
  int multiprocessors_ = 0;

 private:
  DeviceMemory memory_;
  std::unique_ptr<cuda::PointerArrays> arrays_;
};

TEST_F(CudaFp8, AWeightTakesAboutAByteAValue) {
  EXPECT_LE(ops_->make_fp8_matrix(7168, 2048, DType::bf16)->bytes(), size_t{7168} * 2048 * 33 / 32);
}

TEST_F(CudaFp8, ProductsAreThoseOfTheScaledCodes) {
  for (const Form& form : forms_)
    for (const auto& [n, k] :
         {std::pair<int64_t, int64_t>(5, 7), {64, 128}, {70, 300}, {200, 1304}, {576, 512}}) {
      const Weight w = weight(n, k, form.dtype);
      const Twin bias = random(DType::f32, {n});
      for (const int64_t m : {1, 9, 20, 40, 150}) {
        const Twin x = random(form.dtype, {m, k});
        const std::vector<double> multiplied = as_multiplied(form, x);
        for (const DType out : {DType::f32, DType::bf16})
          for (const bool more : {false, true}) {  // added to what is there, and a bias
            SCOPED_TRACE(form.name + Shape({m, n, k}).text() + name_of(out));
            const Twin y = more ? random(out, {m, n}, 5) : poisoned(out, {m, n});
            multiply(y, multiplied, w, 0, m, more ? bias.host.view.as<const float>() : nullptr, more);
            run(form, y.gpu, x.gpu, w, more ? bias.gpu.view.as<const float>() : nullptr, more);
            expect_close(y, tolerance_of(form, out));
          }
      }
    }
}

TEST_F(CudaFp8, OpsMultiplyInTheFormOfTheDevice) {
  for (const DType dtype : {DType::f32, DType::bf16}) {
    const Weight w = weight(300, 400, dtype);
    const Twin x = random(dtype, {30, 400}), y = poisoned(DType::f32, {30, 300}),
               same = poisoned(DType::f32, {30, 300});
    const Form exact{"", dtype, false};
    multiply(y, as_multiplied(exact, x), w, 0, 30);
    ops_->matmul(y.gpu, x.gpu, *w.gpu, {}, Into::overwrite);
    expect_close(y, dtype == DType::bf16 ? 4e-2 : 2e-6);  // normal numbers in E4M3 are off by 2.6 %

    const bool on_hopper = dtype == DType::bf16 && device().architecture() == "sm_90";
    run({"", dtype, on_hopper}, same.gpu, x.gpu, w);
    EXPECT_TRUE(bytes_of_rows(y.gpu, 0, 30) == bytes_of_rows(same.gpu, 0, 30));
  }
}

TEST_F(CudaFp8, RowsHaveTheSameBitsForEveryM) {
  constexpr int64_t kMost = 1024;
  for (const Form& form : forms_)
    for (const auto& [n, k] : {std::pair<int64_t, int64_t>(4096, 1024), {576, 896}, {8448, 384}}) {
      SCOPED_TRACE(form.name + Shape({n, k}).text());
      const Weight w = weight(n, k, form.dtype);
      const Twin x = random(form.dtype, {kMost, k}), all = poisoned(DType::f32, {kMost, n}),
                 some = poisoned(DType::f32, {kMost, n});
      run(form, all.gpu, x.gpu, w);
      for (const int64_t m : {1, 2, 7, 8, 9, 16, 17, 32, 33, 64, 65, 128, 200, 300, 700, 1023}) {
        run(form, some.gpu.view.first(m), x.gpu.view.rows(kMost - m, m), w);
        ASSERT_TRUE(bytes_of_rows(some.gpu, 0, m) == bytes_of_rows(all.gpu, kMost - m, m)) << "M = " << m;
      }
    }
}

TEST_F(CudaFp8, GroupsHaveTheBitsOfTheirOwnProducts) {
  for (const Form& form : forms_)
    for (const std::vector<int64_t>& counts :
         {std::vector<int64_t>{0, 3, 0, 1, 5, 0}, {1, 1, 1, 1, 1}, {130, 0, 7, 300, 64}, {0, 0, 1}, {9}}) {
      const int64_t n = 200, k = 640, rows = std::accumulate(counts.begin(), counts.end(), int64_t{0});
      std::vector<Weight> weights;
      for (size_t g = 0; g < counts.size(); ++g) weights.push_back(weight(n, k, form.dtype));
      const Twin x = random(form.dtype, {rows, k}), y = poisoned(DType::f32, {rows, n});
      run(form, y.gpu, x.gpu, weights, counts);
      for (int64_t g = 0, first = 0; g < std::ssize(counts); first += counts[static_cast<size_t>(g++)]) {
        const int64_t count = counts[static_cast<size_t>(g)];
        if (count == 0) continue;
        SCOPED_TRACE(form.name + Shape({g, first, count}).text());
        const Twin alone = poisoned(DType::f32, {count, n});
        run(form, alone.gpu, x.gpu.view.rows(first, count), weights[static_cast<size_t>(g)]);
        EXPECT_TRUE(bytes_of_rows(alone.gpu, 0, count) == bytes_of_rows(y.gpu, first, count));
      }
    }
}

TEST_F(CudaFp8, ExpertsAreMultipliedThroughOpsAndCanBeRecorded) {
  const std::vector<int32_t> starts{0, 3, 3, 20, 21};
  std::vector<Weight> weights;
  std::vector<const Matrix*> pointers;
  for (size_t e = 0; e + 1 < starts.size(); ++e) {
    weights.push_back(weight(96, 256, DType::bf16));
    pointers.push_back(starts[e] < starts[e + 1] ? weights[e].gpu.get() : nullptr);
  }
  const Twin start = of(starts), x = random(DType::bf16, {21, 256}), y = poisoned(DType::f32, {21, 96});
  RoutingView routing;
  routing.expert_start_E1 = start.gpu.view.as<int32_t>();
  routing.tokens = 21;
  routing.chosen = 1;
  routing.experts = std::ssize(pointers);
  const auto multiply_all = [&] { ops_->matmul_by_expert(y.gpu, x.gpu, pointers, routing); };
  multiply_all();
  for (size_t e = 0; e < weights.size(); ++e) {
    const int64_t first = starts[e], count = starts[e + 1] - first;
    if (count == 0) continue;
    const Twin alone = poisoned(DType::f32, {count, 96});
    ops_->matmul(alone.gpu, x.gpu.view.rows(first, count), *weights[e].gpu, {}, Into::overwrite);
    EXPECT_TRUE(bytes_of_rows(alone.gpu, 0, count) == bytes_of_rows(y.gpu, first, count)) << "expert " << e;
  }
  const std::vector<std::byte> asked = bytes_of_rows(y.gpu, 0, 21);
  const auto recording = gpu_->record(multiply_all);
  gpu_->upload(y.gpu.view.data, poisoned(DType::f32, {21, 96}).host.view.data, y.gpu.view.bytes());
  recording->replay();
  EXPECT_TRUE(bytes_of_rows(y.gpu, 0, 21) == asked);
}

TEST_F(CudaFp8, ASmallWorkspaceChangesNoBits) {
  for (const Form& form : forms_) {
    const std::vector<int64_t> counts{100, 0, 3, 250, 1};
    std::vector<Weight> weights;
    for (size_t g = 0; g < counts.size(); ++g) weights.push_back(weight(96, 512, form.dtype));
    const Twin x = random(form.dtype, {354, 512}), whole = poisoned(DType::f32, {354, 96}),
               parts = poisoned(DType::f32, {354, 96});
    const auto run_both = [&](const Twin& groups, const Twin& one) {
      run(form, groups.gpu, x.gpu, weights, counts);
      run(form, one.gpu, x.gpu, weights[0]);
    };
    const Twin whole_of_one = poisoned(DType::f32, {354, 96}), parts_of_one = poisoned(DType::f32, {354, 96});
    run_both(whole, whole_of_one);
    workspace_.bytes = 128 << 10;  // of some 80 rows
    run_both(parts, parts_of_one);
    workspace_.bytes = kWorkspaceBytes;
    EXPECT_TRUE(bytes_of_rows(parts.gpu, 0, 354) == bytes_of_rows(whole.gpu, 0, 354)) << form.name;
    EXPECT_TRUE(bytes_of_rows(parts_of_one.gpu, 0, 354) == bytes_of_rows(whole_of_one.gpu, 0, 354))
        << form.name;
  }
}

TEST_F(CudaFp8, ZerosGiveZerosAndNothingHidesANaN) {
  for (const Form& form : forms_) {
    const Weight w = weight(64, 256, form.dtype);
    const Twin x = random(form.dtype, {3, 256}), y = poisoned(DType::f32, {3, 64});
    for (int64_t i = 0; i < 256; ++i) cpu::write(x.host.view.data, form.dtype, i, 0);
    cpu::write(x.host.view.data, form.dtype, 256 + 70, std::numeric_limits<float>::quiet_NaN());
    cpu::write(x.host.view.data, form.dtype, 512 + 70, std::numeric_limits<float>::infinity());
    gpu_->upload(x.gpu.view.data, x.host.view.data, x.host.view.bytes());
    run(form, y.gpu, x.gpu, w);
    const std::vector<float> found = values_of(y.gpu);
    for (size_t i = 0; i < 64; ++i) {
      EXPECT_EQ(found[i], 0) << form.name;
      EXPECT_TRUE(std::isnan(found[64 + i])) << form.name;
      EXPECT_FALSE(std::isfinite(found[128 + i])) << form.name;
    }
  }
}

}  // namespace
}  // namespace penstock::test
