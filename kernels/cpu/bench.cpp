#include "kernels/bench.h"

#include <algorithm>
#include <chrono>
#include <cstring>
#include <functional>
#include <memory>
#include <numeric>

#include "kernels/cpu/cpu_ops.h"
#include "kernels/cpu/number.h"
#include "kernels/cpu/team.h"
#include "runtime/base/rng.h"

namespace penstock {
namespace {

using namespace cpu;

constexpr size_t kColdBytes = size_t{256} << 20;  // read in turn before the same memory comes again
constexpr double kSecondsACase = 0.4;
constexpr double kPeakSeconds = 0.004;  // one measurement of the multiply-add peak

double now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

double seconds_of(const std::function<void()>& body) {
  const double start = now();
  body();
  return now() - start;
}

double median(std::vector<double> values) {
  const auto middle = values.begin() + static_cast<std::ptrdiff_t>(values.size() / 2);
  std::nth_element(values.begin(), middle, values.end());
  return *middle;
}

void fill_random(const TensorView& t) {
  for (int64_t i = 0; i < t.shape.elements(); ++i)
    write(t.data, t.dtype, i, uniform_open(philox(1, static_cast<uint64_t>(i))[0]) - 0.5F);
}

/// The bounds, measured again and again between the runs of what is compared with them.
class Bounds {
 public:
  Bounds(Device& device, int threads)
      : kernels_(*available_kernels().front()), team_(threads), buffer_(device.allocate(kColdBytes)) {
    std::memset(buffer_.get(), 0, kColdBytes);
  }

  double flops(DType dtype) {
    const auto run = dtype == DType::bf16 ? kernels_.pair_peak : kernels_.float_peak;
    int64_t rounds = 1000;
    for (;; rounds *= 4) {
      const auto at_once = [&] { team_.run([&](int) { run(rounds); }); };
      const double seconds = seconds_of(at_once);
      if (seconds > kPeakSeconds) return static_cast<double>(run(1) * rounds * team_.size()) / seconds;
    }
  }

  double read() {
    constexpr int64_t kPiece = int64_t{4} << 20;
    const double seconds = seconds_of([&] {
      team_.share(static_cast<int64_t>(kColdBytes) / kPiece, 1, [&](int, int64_t begin, int64_t end) {
        kernels_.read_all(static_cast<const char*>(buffer_.get()) + begin * kPiece, (end - begin) * kPiece);
      });
    });
    return static_cast<double>(kColdBytes) / seconds;
  }

 private:
  const KernelTable& kernels_;
  Team team_;
  DeviceMemory buffer_;
};

/// Runs body(i), i = 0, 1, ..., for about kSecondsACase, with the bounds measured in between.
KernelTiming time(Bounds& bounds, std::string what, DType dtype, double flops, double bytes,
                  const std::function<void(int)>& body) {
  std::vector<double> seconds, peaks, reads;
  body(0);
  int i = 1;
  for (const double start = now(); now() - start < kSecondsACase;) {
    peaks.push_back(bounds.flops(dtype));
    if (reads.size() < 8) reads.push_back(bounds.read());
    const double round = now();
    do {
      seconds.push_back(seconds_of([&] { body(i); }));
      ++i;
    } while (now() - round < 0.02);
  }
  return {std::move(what), median(seconds), flops, bytes, median(peaks), median(reads)};
}

/// Rows at positions context - tokens ... context - 1, their blocks scattered over the cache.
struct Batch {
  Batch(int64_t sequences, int64_t tokens, int64_t context, int64_t block_size) {
    stride = (context + block_size - 1) / block_size;
    starts.push_back(0);
    for (int64_t r = 0; r < sequences; ++r) {
      for (int64_t i = 0; i < tokens; ++i) {
        positions.push_back(static_cast<int32_t>(context - tokens + i));
        row_of.push_back(static_cast<int32_t>(r));
      }
      starts.push_back(static_cast<int32_t>(positions.size()));
      contexts.push_back(static_cast<int32_t>(context));
    }
    table.resize(static_cast<size_t>(sequences * stride));
    std::iota(table.begin(), table.end(), 0);
    std::sort(table.begin(), table.end(), [](int32_t a, int32_t b) {
      return philox(2, static_cast<uint64_t>(a)) < philox(2, static_cast<uint64_t>(b));
    });
    view = {static_cast<int64_t>(positions.size()),
            sequences,
            positions.data(),
            row_of.data(),
            starts.data(),
            contexts.data(),
            table.data(),
            stride,
            context};
  }
  Batch(const Batch&) = delete;

  int64_t stride = 0;
  std::vector<int32_t> positions, row_of, starts, contexts, table;
  BatchView view;
};

std::string dims(std::initializer_list<std::pair<const char*, int64_t>> named) {
  std::string text;
  for (const auto& [name, value] : named) text += std::string(" ") + name + " " + std::to_string(value);
  return text;
}

std::unique_ptr<Matrix> random_in_fp8(Ops& ops, int64_t n, int64_t k, DType dtype) {
  auto matrix = ops.make_fp8_matrix(n, k, dtype);
  std::vector<uint8_t> values(static_cast<size_t>(n * k));
  for (size_t i = 0; i < values.size(); ++i) values[i] = static_cast<uint8_t>((i * 2654435761U >> 16) % 0x7F);
  std::vector<float> scales(static_cast<size_t>(n * ((k + kFp8Columns - 1) / kFp8Columns)), 1.0F);
  const auto blocks = static_cast<int64_t>(scales.size()) / n;
  ops.load_fp8_rows(*matrix, 0, {values.data(), DType::e4m3, {n, k}},
                    {scales.data(), DType::f32, {n, blocks}});
  return matrix;
}

/// How many copies of `bytes` bytes to take in turn, so that each comes from memory.
size_t copies_of(size_t bytes) {
  return std::max<size_t>(1, kColdBytes / bytes);
}

}  // namespace

std::string bench_kernels() {
  return make_cpu_ops(*make_cpu_device(), 1)->numerics();
}

MachineBounds bench_bounds(int threads) {
  const auto device = make_cpu_device();
  Bounds bounds(*device, threads);
  std::vector<double> bf16, f32, read;
  for (int i = 0; i < 15; ++i) {
    bf16.push_back(bounds.flops(DType::bf16));
    f32.push_back(bounds.flops(DType::f32));
    read.push_back(bounds.read());
  }
  return {median(bf16), median(f32), median(read)};
}

std::vector<KernelTiming> bench_matmul(int threads, std::span<const MatmulCase> cases) {
  const auto device = make_cpu_device();
  const auto ops = make_cpu_ops(*device, threads);
  Bounds bounds(*device, threads);
  std::vector<KernelTiming> timings;
  for (const auto& [m, n, k, dtype, in_fp8] : cases) {
    const Tensor x = device->tensor(dtype, {m, k});
    const Tensor w = device->tensor(dtype, {n, k});
    const Tensor y = device->tensor(DType::f32, {m, n});
    fill_random(x);
    fill_random(w);
    std::vector<std::unique_ptr<Matrix>> copies(copies_of(w.view.bytes()));
    for (auto& copy : copies)
      copy = in_fp8 ? random_in_fp8(*ops, n, k, dtype) : ops->make_matrix(n, k, dtype);
    if (!in_fp8)
      for (auto& copy : copies) ops->load_rows(*copy, 0, w);
    timings.push_back(
        time(bounds,
             std::string("matmul ") + name_of(dtype) + (in_fp8 ? " x FP8" : "") +
                 dims({{"M", m}, {"N", n}, {"K", k}}),
             dtype, 2.0 * static_cast<double>(m) * static_cast<double>(n) * static_cast<double>(k),
             static_cast<double>(copies[0]->bytes()), [&](int i) {
               ops->matmul(y, x, *copies[static_cast<size_t>(i) % copies.size()], {}, Into::overwrite);
             }));
  }
  return timings;
}

std::vector<KernelTiming> bench_attention(int threads, std::span<const AttentionCase> cases) {
  const auto device = make_cpu_device();
  const auto ops = make_cpu_ops(*device, threads);
  Bounds bounds(*device, threads);
  std::vector<KernelTiming> timings;
  for (const AttentionCase& c : cases) {
    const Batch batch(c.sequences, c.tokens, c.context, c.block_size);
    const auto blocks = static_cast<int64_t>(batch.table.size());
    const Tensor q = device->tensor(c.dtype, {batch.view.tokens, c.heads, c.head_dim});
    const Tensor out = device->tensor(c.dtype, {batch.view.tokens, c.heads, c.head_dim});
    fill_random(q);
    const Shape cache_shape{blocks, 2 * c.kv_heads * c.block_size * c.head_dim};
    std::vector<Tensor> caches(copies_of(device->tensor(c.dtype, cache_shape).view.bytes()));
    for (Tensor& cache : caches) {
      cache = device->tensor(c.dtype, cache_shape);
      if (&cache == &caches[0])
        fill_random(cache);
      else
        std::memcpy(cache.view.data, caches[0].view.data, cache.view.bytes());
    }
    // A token at position p is multiplied with p + 1 keys and as many values, in every query head.
    const auto t = static_cast<double>(c.tokens);
    const double seen = t * (static_cast<double>(c.context) - t) + t * (t + 1) / 2;
    const double flops = 4.0 * static_cast<double>(c.sequences * c.heads * c.head_dim) * seen;
    const double bytes = 2.0 * static_cast<double>(c.sequences * c.context * c.kv_heads * c.head_dim) *
                         static_cast<double>(bytes_of(c.dtype));
    timings.push_back(time(
        bounds,
        std::string("attention ") + name_of(c.dtype) +
            dims({{"sequences", c.sequences},
                  {"tokens", c.tokens},
                  {"context", c.context},
                  {"heads", c.heads},
                  {"kv heads", c.kv_heads},
                  {"d", c.head_dim}}),
        c.dtype, flops, bytes, [&](int i) {
          const Tensor& cache = caches[static_cast<size_t>(i) % caches.size()];
          ops->attention(out, q, {cache.view.data, c.dtype, blocks, c.kv_heads, c.head_dim, c.block_size},
                         batch.view, 0.1F);
        }));
  }
  return timings;
}

std::vector<KernelTiming> bench_row_ops(int threads, const RowOpsCase& s) {
  const auto device = make_cpu_device();
  const auto ops = make_cpu_ops(*device, threads);
  Bounds bounds(*device, threads);
  const int64_t d = s.head_dim;
  const DType projected = ops->projection_dtype(s.dtype);
  const auto random = [&](DType dtype, Shape shape) {
    Tensor t = device->tensor(dtype, shape);
    fill_random(t);
    return t;
  };
  const Tensor hidden = random(DType::f32, {s.tokens, s.hidden});
  const Tensor normed = device->tensor(s.dtype, {s.tokens, s.hidden});
  const Tensor weight = random(DType::f32, {s.hidden});
  const Tensor table = random(s.dtype, {s.vocabulary, s.hidden});
  const Tensor qkv = random(projected, {s.tokens, (s.heads + 2 * s.kv_heads) * d});
  const Tensor q = device->tensor(s.dtype, {s.tokens, s.heads, d});
  const Tensor angles = random(DType::f32, {256, d});
  const Tensor gate_up = random(projected, {s.tokens, 2 * s.intermediate});
  const Tensor gated = device->tensor(s.dtype, {s.tokens, s.intermediate});
  const Tensor logits = random(DType::f32, {s.tokens, s.vocabulary});
  for (int64_t i = 0; i < logits.view.shape.elements(); ++i)
    logits.view.as<float>()[i] *= 20;  // some stand out
  const Batch batch(s.tokens, 1, 217, 16);
  const auto blocks = static_cast<int64_t>(batch.table.size());
  const Tensor cache = random(s.dtype, {blocks, 2 * s.kv_heads * 16 * d});
  std::vector<int32_t> ids(static_cast<size_t>(s.tokens));
  for (size_t i = 0; i < ids.size(); ++i)
    ids[i] = static_cast<int32_t>(philox(3, i)[0] % static_cast<uint32_t>(s.vocabulary));
  std::vector<int32_t> rows(ids.size());
  std::iota(rows.begin(), rows.end(), 0);

  std::vector<KernelTiming> timings;
  const auto run = [&](const char* what, double bytes, const std::function<void(int)>& body) {
    timings.push_back(time(bounds, what + dims({{"tokens", s.tokens}}), s.dtype, 0, bytes, body));
  };
  const auto sizes = [](std::initializer_list<TensorView> views) {
    double bytes = 0;
    for (const TensorView& v : views) bytes += static_cast<double>(v.bytes());
    return bytes;
  };
  run("embed", sizes({hidden}), [&](int) { ops->embed(hidden, ids.data(), table); });
  run("rms_norm", sizes({hidden, normed}), [&](int) { ops->rms_norm(normed, hidden, weight, 1e-5F); });
  run("rope_and_store", sizes({qkv, q}), [&](int) {
    ops->rope_and_store(q, {cache.view.data, s.dtype, blocks, s.kv_heads, d, 16}, qkv, {angles, d, {}, {}, 0},
                        batch.view);
  });
  run("swiglu", sizes({gate_up, gated}), [&](int) { ops->swiglu(gated, gate_up); });
  run("gather_rows", 2 * sizes({normed}), [&](int) { ops->gather_rows(normed, normed, rows.data()); });
  const auto sample = [&](const char* what, SampleParams params) {
    run(what, sizes({logits}), [&, params](int i) {
      std::vector<SampleParams> all(static_cast<size_t>(s.tokens), params);
      for (size_t r = 0; r < all.size(); ++r) all[r].key = static_cast<uint64_t>(i) * all.size() + r;
      ops->sample(logits, all);
    });
  };
  sample("sample greedy", {.temperature = 0});
  sample("sample at a temperature", {});
  sample("sample top-k 50 and top-p 0.9", {.top_k = 50, .top_p = 0.9F});
  sample("sample top-p 0.9", {.top_p = 0.9F});
  return timings;
}

}  // namespace penstock
