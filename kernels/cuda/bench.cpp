// Times the CUDA kernels by shape, beside the bounds of the device measured in the same run: copying memory
// for what moves bytes, a large product for what multiplies. The shapes are those of Llama 3 8B, latent
// attention's those of DeepSeek-V2-Lite and V3.
#include "kernels/bench.h"

#include <cuda_runtime_api.h>

#include <algorithm>
#include <cstring>
#include <functional>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "kernels/ops.h"
#include "runtime/device/cuda_device.h"
#include "runtime/model/kv_cache.h"

namespace penstock {
namespace {

/// Normal random numbers, a product of which with others takes as long as one with real data: on numbers of
/// few distinct bits the tensor cores run up to 15 % faster.
struct Noise {
  std::vector<float> f32;
  std::vector<uint16_t> bf16;

  Noise() : f32((1 << 22) + 7) {
    std::mt19937 engine(1);
    std::normal_distribution<float> normal(0, 1);
    for (float& x : f32) {
      x = normal(engine);
      uint32_t bits = 0;
      std::memcpy(&bits, &x, sizeof bits);
      bf16.push_back(static_cast<uint16_t>(bits >> 16));
    }
  }
};

constexpr int kRuns = 15;

class Bench {
 public:
  Bench(CudaDevice& device, Ops& ops, const std::function<void(const KernelTiming&)>& each)
      : device_(device), ops_(ops), each_(each) {}

  MachineBounds bounds() {
    measure_bounds();
    return {peak_, 0, copy_};
  }

  void run() {
    products();
    attention_decode();
    attention_prefill();
    latent_attention();
    rows();
    sampling();
  }

 private:
  static constexpr int64_t kHeads = 32, kKvHeads = 8, kDim = 128, kBlock = 16;

  /// The median of `kRuns` runs, in seconds. What `work` is given counts the runs, so that it can change its
  /// inputs.
  double seconds(const std::function<void(int)>& work) {
    const cuda::Event begin = cuda::make_event(cudaEventDefault), end = cuda::make_event(cudaEventDefault);
    for (int i = 0; i < 3; ++i) work(i);
    std::vector<float> times;
    for (int i = 0; i < kRuns; ++i) {
      cuda::check(cudaEventRecord(begin.get(), device_.stream()), "time");
      work(i);
      cuda::check(cudaEventRecord(end.get(), device_.stream()), "time");
      cuda::check(cudaEventSynchronize(end.get()), "time");
      cuda::check(cudaEventElapsedTime(&times.emplace_back(), begin.get(), end.get()), "time");
    }
    std::nth_element(times.begin(), times.begin() + kRuns / 2, times.end());
    return 1e-3 * static_cast<double>(times[kRuns / 2]);
  }

  void print(const std::string& what, double time, double bytes, double flops) const {
    each_({what, time, flops, bytes, peak_, copy_});
  }

  Tensor random(DType dtype, const Shape& shape) {
    Tensor tensor = device_.tensor(dtype, shape);
    for (int64_t at = 0, end = shape.elements(); at < end;) {
      const int64_t count = std::min(end - at, static_cast<int64_t>(noise_.f32.size()));
      const void* from =
          dtype == DType::f32 ? static_cast<const void*>(noise_.f32.data()) : noise_.bf16.data();
      device_.upload(tensor.view.as<char>() + static_cast<size_t>(at) * bytes_of(dtype), from,
                     static_cast<size_t>(count) * bytes_of(dtype));
      at += count;
    }
    return tensor;
  }

  void measure_bounds() {
    constexpr size_t kBytes = size_t{2} << 30;
    {
      const DeviceMemory a = device_.allocate(kBytes), b = device_.allocate(kBytes);
      cuda::check(cudaMemset(a.get(), 1, kBytes), "clear");
      copy_ =
          2 * kBytes / seconds([&](int) {
            cuda::check(cudaMemcpyAsync(b.get(), a.get(), kBytes, cudaMemcpyDeviceToDevice, device_.stream()),
                        "copy");
          });
    }
    constexpr int64_t n = 8192;
    const auto w = matrix(n, n);
    const Tensor x = random(DType::bf16, {n, n}), y = device_.tensor(DType::bf16, {n, n});
    peak_ = 2.0 * n * n * n / seconds([&](int) { ops_.matmul(y, x, *w, {}, Into::overwrite); });
  }

  std::unique_ptr<Matrix> matrix(int64_t n, int64_t k) {
    auto w = ops_.make_matrix(n, k, DType::bf16);
    const int64_t rows = static_cast<int64_t>(noise_.bf16.size()) / k;  // of noise
    for (int64_t r = 0; r < n; r += rows)
      ops_.load_rows(*w, r, {noise_.bf16.data(), DType::bf16, {std::min(rows, n - r), k}});
    return w;
  }

  void products() {
    struct Layer {
      const char* name;
      int64_t n, k;
      DType out;
      Into into;
    };
    for (const Layer& l : {Layer{"qkv", 6144, 4096, DType::bf16, Into::overwrite},
                           {"o", 4096, 4096, DType::f32, Into::add},
                           {"gate_up", 28672, 4096, DType::bf16, Into::overwrite},
                           {"down", 4096, 14336, DType::f32, Into::add},
                           {"head", 128256, 4096, DType::f32, Into::overwrite}}) {
      std::vector<std::unique_ptr<Matrix>> weights;  // more than the cache holds
      for (int64_t bytes = 0; bytes < 200 << 20; bytes += l.n * l.k * 2) weights.push_back(matrix(l.n, l.k));
      for (const int64_t m : {1, 16, 32, 64, 128, 256, 512, 1024, 2048, 8192}) {
        if (l.n > 100000 && m > 512) continue;
        const Tensor x = random(DType::bf16, {m, l.k}), y = random(l.out, {m, l.n});
        const double time = seconds(
            [&](int i) { ops_.matmul(y, x, *weights[static_cast<size_t>(i) % weights.size()], {}, l.into); });
        const double out = static_cast<double>(y.view.bytes()) * (l.into == Into::add ? 2 : 1);
        print(std::string(l.name) + " " + Shape{l.n, l.k}.text() + " M " + std::to_string(m), time,
              static_cast<double>(l.n * l.k * 2) + static_cast<double>(x.view.bytes()) + out,
              2.0 * static_cast<double>(m * l.n * l.k));
      }
    }
  }

  struct Batch {
    Tensor memory;
    BatchView view;
  };

  /// `rows` sequences with `count` new tokens each, ending at `context`; blocks in a scattered order.
  Batch batch(int64_t rows, int64_t count, int64_t context) {
    const int64_t tokens = rows * count, stride = (context + kBlock - 1) / kBlock;
    std::vector<int32_t> host;
    for (int64_t t = 0; t < tokens; ++t) host.push_back(static_cast<int32_t>(context - count + t % count));
    for (int64_t t = 0; t < tokens; ++t) host.push_back(static_cast<int32_t>(t / count));
    for (int64_t r = 0; r <= rows; ++r) host.push_back(static_cast<int32_t>(r * count));
    for (int64_t r = 0; r < rows; ++r) host.push_back(static_cast<int32_t>(context));
    std::vector<int32_t> blocks(static_cast<size_t>(rows * stride));
    for (size_t b = 0; b < blocks.size(); ++b) blocks[b] = static_cast<int32_t>(b);
    std::shuffle(blocks.begin(), blocks.end(), std::mt19937(3));
    host.insert(host.end(), blocks.begin(), blocks.end());
    Batch made{device_.tensor(DType::i32, {static_cast<int64_t>(host.size())}), {}};
    device_.upload(made.memory.view.data, host.data(), host.size() * 4);
    const auto* p = made.memory.view.as<const int32_t>();
    made.view = {tokens,
                 rows,
                 p,
                 p + tokens,
                 p + 2 * tokens,
                 p + 2 * tokens + rows + 1,
                 p + 2 * tokens + 2 * rows + 1,
                 stride,
                 context};
    return made;
  }

  void attention(const std::string& name, int64_t rows, int64_t count, int64_t context) {
    const Batch b = batch(rows, count, context);
    const int64_t blocks = rows * b.view.table_stride;
    const int copies =
        static_cast<int>(std::max<int64_t>(1, (200 << 20) / (blocks * kBlock * kKvHeads * kDim * 4)));
    std::vector<Tensor> caches;
    for (int i = 0; i < std::min(copies, 8); ++i)
      caches.push_back(random(DType::bf16, {blocks * 2 * kKvHeads, kBlock, kDim}));
    const Tensor q = random(DType::bf16, {b.view.tokens, kHeads, kDim}),
                 out = device_.tensor(DType::bf16, {b.view.tokens, kHeads, kDim});
    const double time = seconds([&](int i) {
      const KvCacheView cache{caches[static_cast<size_t>(i) % caches.size()].view.data,
                              DType::bf16,
                              blocks,
                              kKvHeads,
                              kDim,
                              kBlock};
      ops_.attention(out, q, cache, b.view, 0.088F);
    });
    const double pairs = static_cast<double>(rows) * static_cast<double>(count) *
                         (static_cast<double>(context) - 0.5 * static_cast<double>(count - 1));
    print(
        name + " " + std::to_string(rows) + " x " + std::to_string(count) + " at " + std::to_string(context),
        time,
        static_cast<double>(rows * context * kKvHeads * kDim * 4) + 2.0 * static_cast<double>(q.view.bytes()),
        4.0 * pairs * static_cast<double>(kHeads * kDim));
  }

  void attention_decode() {
    for (const auto& [rows, context] : {std::pair<int64_t, int64_t>(1, 256),
                                        {1, 4096},
                                        {64, 256},
                                        {64, 4096},
                                        {256, 200},
                                        {256, 1024},
                                        {512, 256}})
      attention("attention decode", rows, 1, context);
  }
  void attention_prefill() {
    for (const auto& [rows, count] : {std::pair<int64_t, int64_t>(1, 8192), {4, 2048}, {64, 128}})
      attention("attention prefill", rows, count, count);
  }

  /// All positions of `whole`.
  void fill_latents(const LatentCacheView& cache, const BatchView& whole) {
    const int64_t tokens = whole.tokens, d = cache.latent_dim + cache.rope_dim;
    const Tensor norm = random(DType::f32, {cache.latent_dim}),
                 angles = random(DType::f32, {whole.max_context, cache.rope_dim}),
                 latent = random(DType::f32, {tokens, d}),
                 q_e = random(DType::f32, {tokens, 1, 1 + cache.rope_dim}),
                 plain = device_.tensor(DType::bf16, {tokens, 1, 1}),
                 q = device_.tensor(DType::f32, {tokens, 1, d});
    ops_.latent_rope_and_store(q, plain, cache, q_e, latent, {angles, true, norm, 1e-6F}, whole);
  }

  void latent_attention(const std::string& name, DType dtype, int64_t heads, int64_t rows, int64_t count,
                        int64_t context) {
    constexpr int64_t kLatent = 512, kRope = 64;
    const Batch b = batch(rows, count, context);
    const int64_t blocks = rows * b.view.table_stride;
    const int64_t bytes = blocks * kBlock * latent_position_bytes(kLatent, kRope, dtype);
    std::vector<Tensor> caches;  // more than the L2 cache holds
    const auto view = [&](int i) {
      return LatentCacheView{
          caches[static_cast<size_t>(i) % caches.size()].view.data, dtype, blocks, kLatent, kRope, kBlock};
    };
    for (int i = 0; i < std::clamp<int64_t>((200 << 20) / bytes, 1, 8); ++i) {
      caches.push_back(device_.tensor(DType::i8, {bytes}));
      const Batch whole = batch(rows, context, context);
      fill_latents(view(i), whole.view);
    }
    const Tensor q = random(DType::f32, {b.view.tokens, heads, kLatent + kRope}),
                 out = device_.tensor(DType::bf16, {b.view.tokens, heads, kLatent});
    const double time = seconds([&](int i) { ops_.latent_attention(out, q, view(i), b.view, 0.07F); });
    const double pairs = static_cast<double>(rows) * static_cast<double>(count) *
                         (static_cast<double>(context) - 0.5 * static_cast<double>(count - 1));
    print(name + " " + name_of(dtype) + " H " + std::to_string(heads) + " " + std::to_string(rows) + " x " +
              std::to_string(count) + " at " + std::to_string(context),
          time,
          static_cast<double>(rows * context * latent_position_bytes(kLatent, kRope, dtype)) +
              static_cast<double>(q.view.bytes() + out.view.bytes()),
          2.0 * pairs * static_cast<double>(heads * (2 * kLatent + kRope)));
  }

  void latent_attention() {
    for (const DType dtype : {DType::bf16, DType::e4m3, DType::i8})
      for (const auto& [heads, rows, context] : {std::tuple<int64_t, int64_t, int64_t>(16, 1, 4096),
                                                 {16, 64, 4096},
                                                 {16, 256, 1024},
                                                 {16, 256, 200},
                                                 {128, 64, 4096}})
        latent_attention("latent decode", dtype, heads, rows, 1, context);
    for (const DType dtype : {DType::bf16, DType::e4m3, DType::i8})
      for (const auto& [heads, rows, count] :
           {std::tuple<int64_t, int64_t, int64_t>(16, 1, 4096), {16, 16, 256}, {128, 1, 4096}})
        latent_attention("latent prefill", dtype, heads, rows, count, count);
  }

  void rows() {
    for (const int64_t t : {1, 256, 2048}) {
      const Tensor x = random(DType::f32, {t, 4096}), w = random(DType::f32, {4096}),
                   y = device_.tensor(DType::bf16, {t, 4096});
      print("rms_norm " + x.view.shape.text(), seconds([&](int) { ops_.rms_norm(y, x, w, 1e-5F); }),
            static_cast<double>(x.view.bytes() + y.view.bytes()), 0);
      const Tensor gate_up = random(DType::bf16, {t, 28672}), z = device_.tensor(DType::bf16, {t, 14336});
      print("swiglu " + z.view.shape.text(), seconds([&](int) { ops_.swiglu(z, gate_up); }),
            static_cast<double>(gate_up.view.bytes() + z.view.bytes()), 0);
      const Batch b = batch(t, 1, 256);
      const Tensor cache = device_.tensor(DType::bf16, {t * 16 * 2 * kKvHeads, kBlock, kDim});
      const Tensor qkv = random(DType::bf16, {t, 6144}), q = device_.tensor(DType::bf16, {t, kHeads, kDim});
      const Tensor angles = random(DType::f32, {256, kDim});
      const KvCacheView view{cache.view.data, DType::bf16, t * 16, kKvHeads, kDim, kBlock};
      print("rope_and_store " + qkv.view.shape.text(), seconds([&](int) {
              ops_.rope_and_store(q, view, qkv, {angles, kDim, {}, {}, 0}, b.view);
            }),
            2.0 * static_cast<double>(qkv.view.bytes()), 0);
    }
  }

  void sampling() {
    for (const int64_t rows : {1, 256, 512}) {
      const Tensor logits = random(DType::f32, {rows, 128256});
      const auto time = [&](const char* name, const SampleParams& params) {
        const std::vector<SampleParams> all(static_cast<size_t>(rows), params);
        print(std::string(name) + " " + logits.view.shape.text(),
              seconds([&](int) { ops_.sample(logits, all); }), static_cast<double>(logits.view.bytes()), 0);
      };
      time("sample greedy", {0, 0, 1, 0, 1, 0, -1});
      time("sample temperature", {1, 0, 1, 0, 1, 0, -1});
      time("sample top-p 0.95", {0.8F, 0, 0.95F, 0, 1, 0, -1});
      time("sample greedy, 1 logprob", {0, 0, 1, 0, 1, 0, 1});
    }
  }

  CudaDevice& device_;
  Ops& ops_;
  const std::function<void(const KernelTiming&)>& each_;
  double copy_ = 1;
  double peak_ = 1;
  Noise noise_;
};

}  // namespace

MachineBounds bench_cuda_bounds(Device& device, Ops& ops) {
  const std::function<void(const KernelTiming&)> nobody;
  return Bench(as_cuda(device), ops, nobody).bounds();
}

MachineBounds bench_cuda(Device& device, Ops& ops, const std::function<void(const KernelTiming&)>& each) {
  Bench bench(as_cuda(device), ops, each);
  const MachineBounds bounds = bench.bounds();
  bench.run();
  return bounds;
}

}  // namespace penstock
