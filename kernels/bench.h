// Times the kernels beside the bounds of the machine, measured in the same run: for `penstock bench` and
// for tests/bench. Prints nothing. Every call starts its own threads and frees what it allocated; a case
// takes about half a second.
#pragma once

#include <functional>
#include <span>
#include <string>
#include <vector>

#include "kernels/ops.h"

namespace penstock {

/// What `threads` threads reach with nothing in the way: multiply-adds on registers alone, reads of memory
/// alone.
struct MachineBounds {
  double bf16_flops = 0;  ///< floating-point operations a second, a multiply-add counting two
  double f32_flops = 0;
  double read_bytes = 0;  ///< bytes a second from a buffer far larger than the caches
};

struct KernelTiming {
  std::string what;       ///< "matmul bfloat16 M 32 N 5632 K 2048"
  double seconds = 0;     ///< median of the runs
  double flops = 0;       ///< of one run
  double bytes = 0;       ///< of weights or KV read from memory in one run
  double peak = 0;        ///< flops a second of the dtype, median of measurements taken between the runs
  double read_bytes = 0;  ///< bytes a second, likewise

  double share_of_peak() const { return flops / seconds / peak; }
  double share_of_reading() const { return bytes / seconds / read_bytes; }
};

struct MatmulCase {
  int64_t m, n, k;
  DType dtype;
  bool in_fp8 = false;  ///< how the weight is kept
};

/// `sequences` rows of `tokens` new tokens each, whose context (the new ones included) is `context`.
struct AttentionCase {
  int64_t sequences, tokens, context;
  int64_t heads, kv_heads, head_dim, block_size;
  DType dtype;
};

/// One micro-batch of `tokens` tokens through everything of a decoder that is no matrix product and no
/// attention.
struct RowOpsCase {
  int64_t tokens, hidden, intermediate, heads, kv_heads, head_dim, vocabulary;
  DType dtype;
};

/// The kernels the processor runs, as in Ops::numerics().
std::string bench_kernels();
MachineBounds bench_bounds(int threads);
/// Weights come from memory, not from caches, as they do in a decoder.
std::vector<KernelTiming> bench_matmul(int threads, std::span<const MatmulCase> cases);
std::vector<KernelTiming> bench_attention(int threads, std::span<const AttentionCase> cases);
/// rms_norm, rope_and_store, swiglu, embed, gather_rows, sample (greedy, temperature, top-p): one timing
/// each.
std::vector<KernelTiming> bench_row_ops(int threads, const RowOpsCase& shape);

/// Of a GPU: bf16_flops is a large matrix product's rate, read_bytes a large copy's, reads and writes
/// counted. Takes 4 GiB of its memory for a moment. Throws UsageError where the toolkit was missing at build
/// time.
MachineBounds bench_cuda_bounds(Device& device, Ops& ops);
/// The GPU's kernels at the shapes of Llama 3 8B, of DeepSeek-V2-Lite's experts and, in FP8, of DeepSeek-V3;
/// `each` hears of a timing as soon as it is taken. Weights and caches come from memory, as they do in a
/// decoder.
MachineBounds bench_cuda(Device& device, Ops& ops, const std::function<void(const KernelTiming&)>& each);

}  // namespace penstock
