// `penstock bench kernels`: matrix products, attention and the rest, one by one.
#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdio>
#include <thread>
#include <vector>

#include "kernels/bench.h"
#include "kernels/ops.h"
#include "launch/bench.h"

namespace penstock {
namespace {

void print(const std::vector<KernelTiming>& timings) {
  for (const KernelTiming& t : timings)
    std::printf("%-52s %10.1f us  %7.1f GFLOP/s %5.1f %%   %6.2f GB/s %5.1f %%\n", t.what.c_str(),
                1e6 * t.seconds, 1e-9 * t.flops / t.seconds, 100 * t.share_of_peak(),
                1e-9 * t.bytes / t.seconds, 100 * t.share_of_reading());
}

int bench_all(int threads) {
  const MachineBounds bounds = bench_bounds(threads);
  std::printf("kernels %s, %d threads; bounds measured in this run:\n", bench_kernels().c_str(), threads);
  std::printf("  multiply-add peak bfloat16 %.0f GFLOP/s, float32 %.0f GFLOP/s; reading memory %.1f GB/s\n\n",
              1e-9 * bounds.bf16_flops, 1e-9 * bounds.f32_flops, 1e-9 * bounds.read_bytes);
  std::printf("%-52s %13s  %15s %7s   %11s %7s\n", "", "median", "", "of peak", "", "of read");
  std::vector<MatmulCase> products;
  for (const int64_t m : {1, 4, 8, 16, 32, 64, 128, 512}) products.push_back({m, 5632, 2048, DType::bf16});
  for (const int64_t m : {1, 32, 128}) products.push_back({m, 5632, 2048, DType::f32});
  for (const int64_t m : {1, 4, 8, 64}) products.push_back({m, 2816, 2048, DType::bf16, true});
  print(bench_matmul(threads, products));
  const std::vector<AttentionCase> attention{{64, 1, 216, 16, 8, 128, 16, DType::bf16},
                                             {8, 1, 4096, 16, 8, 128, 16, DType::bf16},
                                             {1, 512, 512, 16, 8, 128, 16, DType::bf16}};
  print(bench_attention(threads, attention));
  print(bench_row_ops(threads, {64, 2048, 5632, 16, 8, 128, 32000, DType::bf16}));
  return 0;
}

int bench_gpu() {
  const auto device = make_cuda_device(0);
  const auto ops = make_cuda_ops(*device);
  std::printf("%s, %s\n%-44s %10s %8s %9s %9s\n", device->name().c_str(), ops->numerics().c_str(), "", "us",
              "TB/s", "TFLOP/s", "of bound");
  const MachineBounds bounds = bench_cuda(*device, *ops, [](const KernelTiming& t) {
    const double share = std::max(t.share_of_peak(), t.share_of_reading());
    std::printf("%-44s %10.1f %8.2f %9.1f %8.0f %%\n", t.what.c_str(), 1e6 * t.seconds,
                1e-12 * t.bytes / t.seconds, 1e-12 * t.flops / t.seconds, 100 * share);
    std::fflush(stdout);
  });
  std::printf(
      "bounds, measured in this run: copy %.2f TB/s (bytes read and written), bfloat16 product %.0f "
      "TFLOP/s\n",
      1e-12 * bounds.read_bytes, 1e-12 * bounds.bf16_flops);
  return 0;
}

}  // namespace

void add_bench_kernels(CLI::App& bench, Command& chosen) {
  CLI::App* sub = bench.add_subcommand("kernels", "Matrix products, attention and the rest, by shape");
  auto threads = std::make_shared<int>(static_cast<int>(std::max(1U, std::thread::hardware_concurrency())));
  sub->add_option("--threads", *threads, "CPU threads")->check(CLI::Range(1, 1024))->capture_default_str();
  auto device = std::make_shared<std::string>("cpu");
  sub->add_option("--device", *device, "cpu or cuda")
      ->check(CLI::IsMember({"cpu", "cuda"}))
      ->capture_default_str();
  sub->callback([threads, device, &chosen] {
    chosen = [threads, device] { return *device == "cuda" ? bench_gpu() : bench_all(*threads); };
  });
}

}  // namespace penstock
