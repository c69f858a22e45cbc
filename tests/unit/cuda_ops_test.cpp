// The row operations, matrix products and sampling of the CUDA back end against the plain reference.
#include <map>

#include "kernels/cuda/skinny.h"
#include "kernels/sampling.h"
#include "runtime/device/cuda_device.h"
#include "tests/unit/cuda_fixtures.h"

namespace penstock::test {
namespace {

class CudaOps : public CudaTest {};

TEST_F(CudaOps, BytesComeBackAsTheyWentThroughEveryStagingBuffer) {
  std::vector<uint32_t> sent((50 << 20) / 4 + 3);
  for (uint32_t& x : sent) x = random_();
  const DeviceMemory memory = gpu_->allocate(sent.size() * 4);
  gpu_->upload(memory.get(), sent.data(), sent.size() * 4);
  std::vector<uint32_t> found(sent.size());
  gpu_->download(found.data(), memory.get(), found.size() * 4);
  EXPECT_TRUE(sent == found);
}

TEST_F(CudaOps, OutOfMemoryNamesWhatWasAskedForAndWhatIsFree) {
  try {
    gpu_->allocate(size_t{1} << 42);
    FAIL() << "no device has 4 TiB";
  } catch (const Error& e) {
    EXPECT_NE(std::string(e.what()).find("asked for 4194304 MiB"), std::string::npos) << e.what();
    EXPECT_NE(std::string(e.what()).find("--gpu-memory-utilization"), std::string::npos) << e.what();
  }
  EXPECT_NO_THROW(gpu_->synchronize());  // the failure leaves the device usable
}

TEST_F(CudaOps, RmsNormMatchesTheReference) {
  for (const DType out : {DType::f32, DType::bf16})
    for (const int64_t d : {1, 20, 64, 333, 4096}) {
      const Twin x = random(DType::f32, {5, d}, 3), weight = random(DType::f32, {d}),
                 y = poisoned(out, {5, d});
      ops_->rms_norm(y.gpu, x.gpu, weight.gpu, 1e-5F);
      reference_->rms_norm(y.host, x.host, weight.host, 1e-5F);
      expect_close(y, tolerance(out));
    }
}

TEST_F(CudaOps, SwigluMatchesTheReferenceAtBothEndsOfExp) {
  for (const DType in : {DType::f32, DType::bf16})
    for (const DType out : {DType::f32, DType::bf16})
      for (const int64_t f : {1, 24, 102, 14336}) {
        const Twin gate_up = random(in, {3, 2 * f}, 60), y = poisoned(out, {3, f});
        ops_->swiglu(y.gpu, gate_up.gpu);
        reference_->swiglu(y.host, gate_up.host);
        expect_close(y, tolerance(out));
      }
}

TEST_F(CudaOps, EmbedAndGatherCopyRows) {
  const Twin ids = of({4, 0, 9, 9, 1});
  for (const int64_t d : {37, 64}) {
    for (const DType dtype : {DType::f32, DType::bf16}) {
      const Twin table = random(dtype, {10, d}), x = poisoned(DType::f32, {5, d});
      ops_->embed(x.gpu, ids.gpu.view.as<const int32_t>(), table.gpu);
      reference_->embed(x.host, ids.host.view.as<const int32_t>(), table.host);
      expect_close(x, 0);
      const Twin y = poisoned(dtype, {5, d});
      ops_->gather_rows(y.gpu, table.gpu, ids.gpu.view.as<const int32_t>());
      reference_->gather_rows(y.host, table.host, ids.host.view.as<const int32_t>());
      expect_close(y, 0);
    }
  }
}

/// A weight in both back ends.
struct TwinMatrix {
  std::unique_ptr<Matrix> host;
  std::unique_ptr<Matrix> gpu;
};

class CudaMatmul : public CudaTest {
 protected:
  TwinMatrix matrix(int64_t n, int64_t k, DType dtype, DType file_dtype) {
    const Twin rows = random(file_dtype, {n, k}, 0.1F);
    TwinMatrix w{reference_->make_matrix(n, k, dtype), ops_->make_matrix(n, k, dtype)};
    reference_->load_rows(*w.host, 0, rows.host);
    const int64_t half = n / 2;
    TensorView rest = rows.host;
    rest.data = rows.host.view.as<char>() + static_cast<size_t>(half * k) * bytes_of(file_dtype);
    rest.shape = {n - half, k};
    ops_->load_rows(*w.gpu, 0, rows.host.view.first(half));
    ops_->load_rows(*w.gpu, half, rest);
    return w;
  }
};

TEST_F(CudaMatmul, MatchesTheReference) {
  for (const DType dtype : {DType::f32, DType::bf16})
    for (const DType out : {dtype, DType::f32})
      for (const auto& [n, k] : {std::pair<int64_t, int64_t>(96, 64), {320, 192}, {64, 160}}) {
        SCOPED_TRACE(Shape({n, k}).text() + name_of(dtype) + name_of(out));
        const TwinMatrix w = matrix(n, k, dtype, DType::f32);
        const Twin bias = random(DType::f32, {n});
        for (const int64_t m : {1, 5, 70}) {
          const Twin x = random(dtype, {m, k});
          for (const bool biased : {false, true})
            for (const Into into : {Into::overwrite, Into::add}) {
              const Twin y = into == Into::add ? random(out, {m, n}) : poisoned(out, {m, n});
              ops_->matmul(y.gpu, x.gpu, *w.gpu, biased ? bias.gpu.view : TensorView{}, into);
              reference_->matmul(y.host, x.host, *w.host, biased ? bias.host.view : TensorView{}, into);
              expect_close(y, tolerance(out));
            }
        }
      }
}

TEST_F(CudaMatmul, RowsHaveTheSameBitsForEveryM) {
  for (const DType dtype : {DType::f32, DType::bf16})
    for (const DType out : {dtype, DType::f32})
      for (const auto& [n, k] :
           {std::pair<int64_t, int64_t>(4096, 4096), {6144, 4096}, {4096, 14336}, {384, 192}}) {
        SCOPED_TRACE(Shape({n, k}).text() + name_of(dtype) + name_of(out));
        const int64_t most = 2048;
        const auto w = ops_->make_matrix(n, k, dtype);
        ops_->load_rows(*w, 0, random(DType::bf16, {n, k}, 0.1F).host);
        const Twin x = random(dtype, {most, k}), all = poisoned(out, {most, n}),
                   some = poisoned(out, {most, n});
        ops_->matmul(all.gpu, x.gpu, *w, {}, Into::overwrite);
        for (const int64_t m : {1,  2,   3,   5,   8,   13,  16,  17,  32,  47,   64,
                                65, 100, 128, 129, 192, 256, 300, 512, 700, 1024, 1500}) {
          const int64_t first = most - m;  // other places in a tile than the first time
          TensorView x_m = x.gpu;
          x_m.data = x.gpu.view.as<char>() + static_cast<size_t>(first * k) * bytes_of(dtype);
          x_m.shape = {m, k};
          ops_->matmul(some.gpu.view.first(m), x_m, *w, {}, Into::overwrite);
          ASSERT_TRUE(bytes_of_rows(some.gpu, 0, m) == bytes_of_rows(all.gpu, first, m)) << "M = " << m;
        }
      }
}

TEST_F(CudaMatmul, TheKernelsForFewRowsHaveTheSumsOfManyRows) {
  const CudaDevice& device = as_cuda(*gpu_);
  const int64_t most = 17;  // one more than these kernels serve
  for (const auto& [n, k] : {std::pair<int64_t, int64_t>(6144, 4096), {4096, 14336}, {16, 128}, {48, 640}}) {
    const auto w = ops_->make_matrix(n, k, DType::bf16);
    const Twin rows = random(DType::bf16, {n, k}, 0.1F), x = random(DType::bf16, {most, k}),
               sums = poisoned(DType::f32, {most, n});
    ops_->load_rows(*w, 0, rows.host);
    ops_->matmul(sums.gpu, x.gpu, *w, {}, Into::overwrite);
    const std::vector<float> sum = values_of(sums.gpu);
    for (const DType out : {DType::f32, DType::bf16})
      for (const bool add : {false, true}) {
        const Twin before = random(out, {most, n});
        for (const int64_t m : {1, 2, 7, 8, 9, 15, 16})
          for (const auto kernel : {cuda::skinny_product, cuda::skinny_product_on_hopper}) {
            if (kernel == cuda::skinny_product_on_hopper && device.architecture() != "sm_90") continue;
            SCOPED_TRACE(Shape({m, n, k}).text() + name_of(out));
            const Twin y = copy_of(before);
            kernel(device.stream(), y.gpu.view.data, out, x.gpu.view.data, rows.gpu.view.data, m, n, k, add);
            for (int64_t i = 0; i < m * n; ++i)
              cpu::write(y.host.view.data, out, i,
                         sum[static_cast<size_t>(i)] + (add ? cpu::read(before.host.view.data, out, i) : 0));
            const auto* expected = y.host.view.as<const std::byte>();
            ASSERT_TRUE(bytes_of_rows(y.gpu, 0, most) ==
                        std::vector<std::byte>(expected, expected + y.host.view.bytes()));
          }
      }
  }
}

class CudaSampling : public CudaTest {
 protected:
  void expect_as_reference(const Twin& logits, const std::vector<SampleParams>& params) {
    const std::vector<Sampled> found = ops_->sample(logits.gpu, params);
    const std::vector<Sampled> expected = reference_->sample(logits.host, params);
    ASSERT_EQ(found.size(), expected.size());
    for (size_t r = 0; r < found.size(); ++r) {
      SCOPED_TRACE("row " + std::to_string(r));
      ASSERT_EQ(found[r].token, expected[r].token);
      ASSERT_EQ(found[r].top.size(), expected[r].top.size());
      if (params[r].logprobs < 0) continue;
      ASSERT_NEAR(found[r].logprob, expected[r].logprob, 1e-5);
      for (size_t i = 0; i < found[r].top.size(); ++i) {
        ASSERT_EQ(found[r].top[i].token, expected[r].top[i].token);
        ASSERT_NEAR(found[r].top[i].logprob, expected[r].top[i].logprob, 1e-5);
      }
    }
  }
};

TEST_F(CudaSampling, DrawsTheReferencesTokenUnderEveryFilter) {
  std::vector<SampleParams> params;
  for (const float temperature : {0.0F, 0.3F, 1.0F, 2.5F})
    for (const int32_t top_k : {0, 1, 7, 500})
      for (const float top_p : {1.0F, 0.9F, 0.3F, 0.0F})
        for (const float min_p : {0.0F, 0.05F}) {
          SampleParams p{temperature, top_k, top_p, min_p, random_(), static_cast<uint32_t>(params.size())};
          p.logprobs = static_cast<int32_t>(params.size() % 6) - 1;
          params.push_back(p);
        }
  for (const int64_t v : {5, 512, 5000, 128256}) {
    SCOPED_TRACE("vocabulary " + std::to_string(v));
    expect_as_reference(random(DType::f32, {static_cast<int64_t>(params.size()), v}, 2), params);
  }
}

TEST_F(CudaSampling, TakesTheLowestIdsAmongEquals) {
  // Few distinct values: every filter cuts through ties.
  const int64_t v = 3000;
  std::vector<SampleParams> params;
  for (int i = 0; i < 60; ++i)
    params.push_back({i % 5 == 0 ? 0.0F : 1.0F, i % 3 == 0 ? 40 : 0, 0.05F * static_cast<float>(i % 20), 0,
                      random_(), 0, 4});
  const Twin logits = random(DType::f32, {60, v});
  auto* values = logits.host.view.as<float>();
  for (int64_t i = 0; i < 60 * v; ++i) values[i] = std::round(2 * values[i]);
  gpu_->upload(logits.gpu.view.data, values, logits.host.view.bytes());
  expect_as_reference(logits, params);
}

TEST_F(CudaSampling, NoNumberIsNoToken) {
  const float inf = std::numeric_limits<float>::infinity();
  const float nan = std::numeric_limits<float>::quiet_NaN();
  const Twin logits = random(DType::f32, {4, 4});
  const std::vector<float> rows{nan, 1, nan, 0, -inf, -inf, nan, -inf, -inf, 3, inf, 3, nan, -inf, -5, -5};
  std::memcpy(logits.host.view.data, rows.data(), rows.size() * 4);
  gpu_->upload(logits.gpu.view.data, rows.data(), rows.size() * 4);
  for (const float temperature : {0.0F, 1.0F}) {
    const std::vector<SampleParams> params(4, {temperature, 0, 1, 0, 5, 0, -1});
    expect_as_reference(logits, params);
  }
  EXPECT_TRUE(
      std::isnan(ops_->sample(logits.gpu, std::vector<SampleParams>(4, {0, 0, 1, 0, 5, 0, 0}))[1].logprob));
}

TEST_F(CudaSampling, RulesLeaveWhatTheReferenceLeaves) {
  for (const int64_t v : {200, 5000, 128256}) {
    std::vector<std::vector<int32_t>> allowed(150), banned(150);
    std::vector<std::vector<LogitEdit>> edits(150);
    std::vector<SampleParams> params;
    for (size_t r = 0; r < 150; ++r) {  // more rows with rules than are worked on at once
      const auto some = [&](size_t most) {
        std::vector<int32_t> ids;
        for (int32_t id = static_cast<int32_t>(random_() % 20); id < v && ids.size() < most;
             id += 1 + static_cast<int32_t>(random_() % 40))
          ids.push_back(id);
        return ids;
      };
      if (r % 3 == 0) allowed[r] = some(60);
      if (r % 4 == 0) banned[r] = some(5);
      if (r % 5 != 0)
        for (const int32_t id : some(100))
          edits[r].push_back({id, static_cast<float>(id % 5) - 2, id % 2 == 0 ? 1.0F : 1.7F, 0.1F});
      SampleParams p{r % 2 == 0 ? 0.0F : 1.0F, r % 7 == 0 ? 40 : 0, r % 3 == 1 ? 0.9F : 1.0F, 0, random_(),
                     static_cast<uint32_t>(r)};
      p.logprobs = static_cast<int32_t>(r % 5) - 1;
      p.allowed = allowed[r];
      p.banned = banned[r];
      p.edits = edits[r];
      params.push_back(p);
    }
    SCOPED_TRACE("vocabulary " + std::to_string(v));
    expect_as_reference(random(DType::f32, {150, v}, 2), params);
  }
}

TEST_F(CudaSampling, ARowsResultDoesNotDependOnRulesOfOthers) {
  const Twin logits = random(DType::f32, {3, 5000}, 2);
  std::vector<SampleParams> params(3, {1, 0, 1, 0, 5, 0, 2});
  const std::vector<Sampled> plain = ops_->sample(logits.gpu, params);
  const std::vector<int32_t> banned{plain[1].token};
  params[1].banned = banned;
  const std::vector<Sampled> mixed = ops_->sample(logits.gpu, params);
  EXPECT_NE(mixed[1].token, plain[1].token);
  for (const size_t r : {0, 2}) {
    EXPECT_EQ(mixed[r].token, plain[r].token);
    EXPECT_EQ(mixed[r].logprob, plain[r].logprob);
  }
}

TEST_F(CudaSampling, ScoresAreTheReferencesAndThoseOfDrawnTokens) {
  for (const int64_t v : {5, 3000, 128256}) {
    const Twin logits = random(DType::f32, {70, v}, 3);
    std::vector<ScoreParams> params;
    for (int r = 0; r < 70; ++r)
      params.push_back({static_cast<int32_t>(random_() % static_cast<uint32_t>(v)), r % 21});
    const std::vector<Sampled> found = ops_->score(logits.gpu, params);
    const std::vector<Sampled> expected = reference_->score(logits.host, params);
    for (size_t r = 0; r < 70; ++r) {
      SCOPED_TRACE("row " + std::to_string(r));
      ASSERT_EQ(found[r].token, params[r].token);
      ASSERT_EQ(found[r].rank, expected[r].rank);
      ASSERT_NEAR(found[r].logprob, expected[r].logprob, 1e-5);
      ASSERT_EQ(found[r].top.size(), expected[r].top.size());
      for (size_t i = 0; i < found[r].top.size(); ++i) {
        ASSERT_EQ(found[r].top[i].token, expected[r].top[i].token);
        ASSERT_NEAR(found[r].top[i].logprob, expected[r].top[i].logprob, 1e-5);
      }
    }
    const std::vector<SampleParams> draw(70, {1, 0, 1, 0, 9, 0, 2});
    const std::vector<Sampled> drawn = ops_->sample(logits.gpu, draw);
    for (size_t r = 0; r < 70; ++r) params[r] = {drawn[r].token, 2};
    const std::vector<Sampled> again = ops_->score(logits.gpu, params);
    for (size_t r = 0; r < 70; ++r) ASSERT_EQ(again[r].logprob, drawn[r].logprob) << "row " << r;
  }
}

}  // namespace
}  // namespace penstock::test
