// skinny.cu for Hopper: the same products in the same order, on pieces of 512 bytes a row that the copy
// engine brings, and started while the kernel before still runs.
#include "kernels/cuda/overlap.cuh"
#include "kernels/cuda/skinny.h"
#include "kernels/cuda/tile_copy.cuh"

namespace penstock::cuda {
namespace {

constexpr int kWeightRows = 16;
constexpr int kStageK = 256;
constexpr int kStride = kStageK * 2 + 16;  // bytes: the rows of one ldmatrix lie in different banks
/// Of the weight, what the L2 cache is sure to keep: it is read ahead while kernels that leave the memory
/// idle, attention above all, still compute x.
constexpr int kReadAheadBytes = 32 << 20;

/// Rows of the weight, then of x, a ring of stages of them; three blocks share a multiprocessor.
template <int kTokens>
struct Layout {
  static constexpr int kStages = kTokens == 8 ? 5 : 4;
  static constexpr int kStage = (kWeightRows + kTokens) * kStride;
  static constexpr int kBytes = kStages * kStage;
};

/// One warp a block: 16 rows of the weight times m <= kTokens rows of x.
template <int kTokens, class Out>
__global__ void __launch_bounds__(kWarp)
    multiply_few_rows(Out* y_MN, const __nv_bfloat16* x_MK, const __nv_bfloat16* w_NK, int m, int64_t n,
                      int k, bool add) {
  constexpr int kStages = Layout<kTokens>::kStages;
  extern __shared__ __align__(128) unsigned char shared[];
  __shared__ Barrier full[kStages];
  const int lane = static_cast<int>(threadIdx.x);
  const int64_t first_row = static_cast<int64_t>(blockIdx.x) * kWeightRows;
  const int steps = (k + kStageK - 1) / kStageK;
  const auto columns_of = [&](int step) { return min(kStageK, k - step * kStageK); };
  const auto stage_of = [&](int step) { return shared + step % kStages * Layout<kTokens>::kStage; };

  if (lane == 0) {
    for (Barrier& barrier : full) barrier.start(1);
    publish_barriers();
  }
  for (int s = 0; s < kStages; ++s)  // rows of x that are not there
    for (int i = m * kStride + lane * 16; i < kTokens * kStride; i += kWarp * 16)
      *reinterpret_cast<uint4*>(stage_of(s) + kWeightRows * kStride + i) = {};
  __syncwarp();

  // Lane r copies row r of a stage: 16 of the weight, then those of x.
  const bool copies_weight = lane < kWeightRows;
  const bool copies_tokens = !copies_weight && lane - kWeightRows < m;
  const __nv_bfloat16* const own =
      copies_weight ? w_NK + (first_row + lane) * k : x_MK + static_cast<int64_t>(lane - kWeightRows) * k;
  const auto copy = [&](int step) {
    read_bytes(shared_address(stage_of(step)) + static_cast<unsigned>(lane * kStride), own + step * kStageK,
               static_cast<unsigned>(columns_of(step)) * 2, full[step % kStages]);
  };
  const auto expect = [&](int step) {
    if (lane == 0) full[step % kStages].arrive_and_expect((kWeightRows + m) * columns_of(step) * 2);
  };
  const int first_steps = min(kStages, steps);
  let_next_start();
  for (int s = 0; s < first_steps; ++s) {
    expect(s);
    if (copies_weight) copy(s);
  }
  constexpr int kCopied = kStages * kStageK;
  const int ahead = min(k, kReadAheadBytes / static_cast<int>(gridDim.x * kWeightRows * 2) / 8 * 8);
  if (copies_weight && kCopied < ahead) read_ahead(own + kCopied, static_cast<unsigned>(ahead - kCopied) * 2);
  wait_for_previous();
  for (int s = 0; s < first_steps; ++s)
    if (copies_tokens) copy(s);

  float acc[kTokens / 8][4] = {};
  for (int step = 0; step < steps; ++step) {
    full[step % kStages].wait_for(step / kStages);
    const unsigned char* w = stage_of(step);
    const unsigned char* x = w + kWeightRows * kStride;
    const int columns = columns_of(step);
#pragma unroll 4
    for (int i = 0; i < columns; i += 32) {
      uint32_t a[2][4];
      load_matrices(a[0], w + lane % 16 * kStride + (i + lane / 16 * 8) * 2);
      load_matrices(a[1], w + lane % 16 * kStride + (i + 16 + lane / 16 * 8) * 2);
#pragma unroll
      for (int t = 0; t < kTokens / 8; ++t) {
        uint32_t b[4];
        load_matrices(b, x + (t * 8 + lane % 8) * kStride + (i + lane / 8 * 8) * 2);
        multiply_add_bf16(acc[t], a[0], b[0], b[1]);
        multiply_add_bf16(acc[t], a[1], b[2], b[3]);
      }
    }
    __syncwarp();
    if (const int next = step + kStages; next < steps) {
      expect(next);
      if (copies_weight || copies_tokens) copy(next);
    }
  }
#pragma unroll
  for (int t = 0; t < kTokens / 8; ++t)
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int token = t * 8 + lane % 4 * 2 + i % 2;
      if (token >= m) continue;
      Out& y = y_MN[token * n + first_row + lane / 4 + i / 2 * 8];
      put(y, add ? acc[t][i] + widen(y) : acc[t][i]);
    }
}

template <int kTokens, class Out>
void launch(cudaStream_t stream, Out* y_MN, const void* x_MK, const void* w_NK, int64_t m, int64_t n,
            int64_t k, bool add) {
  const auto kernel = multiply_few_rows<kTokens, Out>;
  check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, Layout<kTokens>::kBytes),
        "skinny: shared memory");
  launch_overlapped("skinny product", stream, kernel, static_cast<unsigned>(n / kWeightRows), kWarp,
                    Layout<kTokens>::kBytes, y_MN, static_cast<const __nv_bfloat16*>(x_MK),
                    static_cast<const __nv_bfloat16*>(w_NK), static_cast<int>(m), n, static_cast<int>(k),
                    add);
}

}  // namespace

void skinny_product_on_hopper(cudaStream_t stream, void* y_MN, DType y_dtype, const void* x_MK,
                              const void* w_NK, int64_t m, int64_t n, int64_t k, bool add) {
  with_type(y_dtype, [&](auto out) {
    auto* y = static_cast<decltype(out)*>(y_MN);
    if (m <= 8)
      launch<8>(stream, y, x_MK, w_NK, m, n, k, add);
    else
      launch<16>(stream, y, x_MK, w_NK, m, n, k, add);
  });
}

}  // namespace penstock::cuda
