// Times the CUDA kernels by shape, beside the bounds of the device measured in the same run: copying memory
// for what moves bytes, a large product for what multiplies. The shapes are those of Llama 3 8B, those of
// experts DeepSeek-V2-Lite's, those of latent attention that's and V3's, those of weights in FP8 V3's.
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
#include "runtime/model/fp8.h"
#include "runtime/model/kv_cache.h"

namespace penstock {
namespace {

/// Normal random numbers, a product of which with others takes as long as one with real data: on numbers of
/// few distinct bits the tensor cores run up to 15 % faster.
struct Noise {
  std::vector<float> f32;
  std::vector<uint16_t> bf16;
  std::vector<uint8_t> e4m3;
  std::vector<uint16_t> weights;  // small enough that what is multiplied by them keeps its size

  Noise() : f32((1 << 22) + 7) {
    std::mt19937 engine(1);
    std::normal_distribution<float> normal(0, 1);
    for (float& x : f32) {
      x = normal(engine);
      uint32_t bits = 0;
      std::memcpy(&bits, &x, sizeof bits);
      bf16.push_back(static_cast<uint16_t>(bits >> 16));
      e4m3.push_back(e4m3_from_f32(100 * x));
      const float weight = x / 64;
      std::memcpy(&bits, &weight, sizeof bits);
      weights.push_back(static_cast<uint16_t>(bits >> 16));
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
    fp8_products();
    fp8_experts();
    gated_products();
    attention_decode();
    attention_prefill();
    latent_attention();
    rows();
    experts();
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
    const int64_t rows = static_cast<int64_t>(noise_.weights.size()) / k;  // of noise
    for (int64_t r = 0; r < n; r += rows)
      ops_.load_rows(*w, r, {noise_.weights.data(), DType::bf16, {std::min(rows, n - r), k}});
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

  std::unique_ptr<Matrix> fp8_matrix(int64_t n, int64_t k) {
    auto w = ops_.make_fp8_matrix(n, k, DType::bf16);
    const int64_t rows = static_cast<int64_t>(noise_.e4m3.size()) / k;  // of noise
    std::vector<float> scales(static_cast<size_t>(rows * blocks_over(k, kFp8Columns)), 1e-4F);
    for (int64_t r = 0; r < n; r += rows) {
      const int64_t count = std::min(rows, n - r);
      ops_.load_fp8_rows(*w, r, {noise_.e4m3.data(), DType::e4m3, {count, k}},
                         {scales.data(), DType::f32, {count, blocks_over(k, kFp8Columns)}});
    }
    return w;
  }

  /// FP8 is multiplied at twice the rate of bfloat16.
  void print_fp8(const std::string& what, double time, double bytes, double flops) const {
    each_({what, time, flops, bytes, 2 * peak_, copy_});
  }
  /// Rounding the inputs included.
  void fp8_products() {
    for (const auto& [n, k] : {std::pair<int64_t, int64_t>(4096, 7168),
                               {7168, 2048},
                               {1536, 7168},
                               {24576, 1536},
                               {7168, 16384},
                               {36864, 7168}}) {
      std::vector<std::unique_ptr<Matrix>> weights;  // more than the cache holds
      for (int64_t bytes = 0; bytes < 200 << 20; bytes += n * k) weights.push_back(fp8_matrix(n, k));
      for (const int64_t m : {1, 8, 16, 32, 64, 128, 256, 1024, 4096}) {
        const Tensor x = random(DType::bf16, {m, k}), y = device_.tensor(DType::f32, {m, n});
        const double time = seconds([&](int i) {
          ops_.matmul(y, x, *weights[static_cast<size_t>(i) % weights.size()], {}, Into::overwrite);
        });
        print_fp8("fp8 product " + Shape{n, k}.text() + " M " + std::to_string(m), time,
                  static_cast<double>(weights[0]->bytes() + x.view.bytes() + y.view.bytes()),
                  2.0 * static_cast<double>(m * n * k));
      }
    }
  }
  /// A quarter of the experts, and of those that a token chooses.
  void fp8_experts() {
    constexpr int64_t kExperts = 64, kChosen = 2, n = 4096, k = 7168;
    std::vector<std::unique_ptr<Matrix>> owned;
    std::vector<const Matrix*> weights;
    for (int64_t e = 0; e < kExperts; ++e) weights.push_back(owned.emplace_back(fp8_matrix(n, k)).get());
    for (const int64_t t : {1, 64, 256, 1024, 4096}) {
      const int64_t pairs = t * kChosen;
      const Tensor memory = device_.tensor(
          DType::i32, {static_cast<int64_t>(RoutingView::bytes(t, kChosen, kExperts) / sizeof(int32_t))});
      const RoutingView routing = RoutingView::over(memory.view.data, t, kChosen, kExperts);
      const Tensor logits = random(DType::f32, {t, kExperts}), x = random(DType::bf16, {pairs, k}),
                   y = device_.tensor(DType::f32, {pairs, n});
      ops_.route(routing, logits, {});
      const int64_t hit = experts_hit(routing);
      const double time = seconds([&](int) { ops_.matmul_by_expert(y, x, weights, routing); });
      print_fp8(
          "fp8 experts " + Shape{n, k}.text() + " hit " + std::to_string(hit) + " T " + std::to_string(t),
          time,
          static_cast<double>(static_cast<size_t>(hit) * weights[0]->bytes() + x.view.bytes() +
                              y.view.bytes()),
          2.0 * static_cast<double>(pairs * n * k));
    }
  }
  int64_t experts_hit(const RoutingView& routing) {
    std::vector<int32_t> start(static_cast<size_t>(routing.experts + 1));
    device_.download(start.data(), routing.expert_start_E1, start.size() * sizeof(int32_t));
    int64_t hit = 0;
    for (size_t e = 0; e + 1 < start.size(); ++e) hit += start[e + 1] > start[e] ? 1 : 0;
    return hit;
  }

  /// The gated MLP's first product with SwiGLU, and what it takes when the two are asked for apart.
  void gated_products() {
    constexpr int64_t f = 14336, k = 4096;
    const auto w = matrix(2 * f, k);
    for (const int64_t m : {1, 64, 128, 256, 384, 512, 1024, 2048, 8192}) {
      const Tensor x = random(DType::bf16, {m, k}), y = device_.tensor(DType::bf16, {m, f}),
                   gate_up = device_.tensor(DType::f32, {m, 2 * f});
      const double flops = 2.0 * static_cast<double>(m * 2 * f * k);
      const auto bytes = static_cast<double>(w->bytes() + x.view.bytes() + y.view.bytes());
      const std::string shape = Shape{2 * f, k}.text() + " M " + std::to_string(m);
      print("gated " + shape, seconds([&](int) { ops_.gated_matmul(y, gate_up, x, *w, {}); }), bytes, flops);
      print("gate_up, then swiglu " + shape, seconds([&](int) {
              ops_.matmul(gate_up, x, *w, {}, Into::overwrite);
              ops_.swiglu(y, gate_up);
            }),
            bytes + 2.0 * static_cast<double>(gate_up.view.bytes()), flops);
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

  /// Of `blocks` blocks. Any byte is a code; scales are numbers like any other.
  Tensor random_cache(DType dtype, int64_t blocks) {
    const int64_t values = blocks * 2 * kKvHeads * kBlock * kDim;
    if (!has_scales(dtype)) return random(dtype, {values});
    Tensor codes_and_scales =
        device_.tensor(dtype, {blocks * kBlock * kv_position_bytes(kKvHeads, kDim, dtype)});
    const auto fill = [&](int64_t at, const Tensor& from) {
      cuda::check(cudaMemcpyAsync(codes_and_scales.view.as<char>() + at, from.view.data, from.view.bytes(),
                                  cudaMemcpyDeviceToDevice, device_.stream()),
                  "copy");
      device_.synchronize();
    };
    fill(0, random(DType::bf16, {values / 2}));
    fill(values, random(DType::f32, {values / kDim}));
    return codes_and_scales;
  }

  void attention(const std::string& name, int64_t rows, int64_t count, int64_t context,
                 DType dtype = DType::bf16) {
    const Batch b = batch(rows, count, context);
    const int64_t blocks = rows * b.view.table_stride;
    const int64_t position_bytes = kv_position_bytes(kKvHeads, kDim, dtype);
    const int copies =
        static_cast<int>(std::max<int64_t>(1, (200 << 20) / (blocks * kBlock * position_bytes)));
    std::vector<Tensor> caches;
    for (int i = 0; i < std::min(copies, 8); ++i) caches.push_back(random_cache(dtype, blocks));
    const Tensor q = random(DType::bf16, {b.view.tokens, kHeads, kDim}),
                 out = device_.tensor(DType::bf16, {b.view.tokens, kHeads, kDim});
    const double time = seconds([&](int i) {
      const KvCacheView cache{
          caches[static_cast<size_t>(i) % caches.size()].view.data, dtype, blocks, kKvHeads, kDim, kBlock};
      ops_.attention(out, q, cache, b.view, 0.088F);
    });
    const double pairs = static_cast<double>(rows) * static_cast<double>(count) *
                         (static_cast<double>(context) - 0.5 * static_cast<double>(count - 1));
    print(name + " " + std::to_string(rows) + " x " + std::to_string(count) + " at " +
              std::to_string(context) + (dtype == DType::bf16 ? "" : std::string(", ") + name_of(dtype)),
          time,
          static_cast<double>(rows * context * position_bytes) + 2.0 * static_cast<double>(q.view.bytes()),
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
    for (const DType dtype : {DType::e4m3, DType::i8})
      for (const auto& [rows, context] : {std::pair<int64_t, int64_t>(64, 4096), {256, 1024}})
        attention("attention decode", rows, 1, context, dtype);
  }
  void attention_prefill() {
    for (const auto& [rows, count] : {std::pair<int64_t, int64_t>(1, 8192), {4, 2048}, {64, 128}})
      attention("attention prefill", rows, count, count);
    for (const DType dtype : {DType::e4m3, DType::i8}) attention("attention prefill", 1, 8192, 8192, dtype);
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

  void experts() {
    constexpr int64_t kExperts = 64, kChosen = 6, kHidden = 2048, kWidth = 1408;
    std::vector<std::unique_ptr<Matrix>> owned;
    std::vector<const Matrix*> gate_up, down;
    for (int64_t e = 0; e < kExperts; ++e) {
      gate_up.push_back(owned.emplace_back(matrix(2 * kWidth, kHidden)).get());
      down.push_back(owned.emplace_back(matrix(kHidden, kWidth)).get());
    }
    for (const int64_t t : {1, 64, 256, 1024, 2048}) {
      const int64_t pairs = t * kChosen;
      const Tensor memory = device_.tensor(
          DType::i32, {static_cast<int64_t>(RoutingView::bytes(t, kChosen, kExperts) / sizeof(int32_t))});
      const RoutingView routing = RoutingView::over(memory.view.data, t, kChosen, kExperts);
      const Tensor logits = random(DType::f32, {t, kExperts}), h = random(DType::bf16, {t, kHidden});
      const Tensor h_SD = device_.tensor(DType::bf16, {pairs, kHidden}),
                   gate_up_S2F = device_.tensor(DType::f32, {pairs, 2 * kWidth}),
                   y_SF = device_.tensor(DType::bf16, {pairs, kWidth}),
                   y_SD = device_.tensor(DType::f32, {pairs, kHidden}), x = random(DType::f32, {t, kHidden});
      const std::string tokens = " T " + std::to_string(t);
      print("route 6 of 64" + tokens, seconds([&](int) { ops_.route(routing, logits, {}); }),
            static_cast<double>(logits.view.bytes() + memory.view.bytes()), 0);
      ops_.gather_rows(h_SD, h, routing.token_S);
      const int64_t hit = experts_hit(routing);
      const auto product = [&](const std::string& name, int64_t n, int64_t k, const TensorView& y_SN,
                               const std::function<void()>& ask) {
        print(name + " " + Shape{n, k}.text() + " hit " + std::to_string(hit) + tokens,
              seconds([&](int) { ask(); }),
              static_cast<double>(hit * n * k * 2 + pairs * k * 2) + static_cast<double>(y_SN.bytes()),
              2.0 * static_cast<double>(pairs * n * k));
      };
      product("experts gate_up", 2 * kWidth, kHidden, y_SF,
              [&] { ops_.gated_matmul_by_expert(y_SF, gate_up_S2F, h_SD, gate_up, routing); });
      product("experts down", kHidden, kWidth, y_SD,
              [&] { ops_.matmul_by_expert(y_SD, y_SF, down, routing); });
      print("combine_experts" + tokens, seconds([&](int) { ops_.combine_experts(x, y_SD, routing); }),
            static_cast<double>(2 * x.view.bytes() + y_SD.view.bytes()), 0);
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
