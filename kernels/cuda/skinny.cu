#include "kernels/cuda/skinny.h"
#include "kernels/cuda/tensor_core.cuh"

namespace penstock::cuda {
namespace {

constexpr int kWeightRows = 16;
constexpr int kStageK = 128;
constexpr int kStages = 6;
constexpr int kStride =
    kStageK + 8;  // in shared memory, so that the rows of one ldmatrix lie in different banks
constexpr int kChunks = kStageK / 8;  // of 16 bytes a row
constexpr int64_t kMostRows = 16;

/// Rows of the weight, then of x, that one stage holds.
template <int kTokens>
constexpr int kStageElements = (kWeightRows + kTokens) * kStride;

/// One warp a block: 16 rows of the weight times up to kTokens rows of x. Copies run kStages - 1 stages
/// ahead.
template <int kTokens, class Out>
__global__ void __launch_bounds__(kWarp)
    multiply_few_rows(Out* y_MN, const __nv_bfloat16* x_MK, const __nv_bfloat16* w_NK, int m, int64_t n,
                      int64_t k, bool add) {
  extern __shared__ __align__(128) unsigned char raw[];
  auto* stages = reinterpret_cast<__nv_bfloat16*>(raw);
  const int lane = static_cast<int>(threadIdx.x);
  const int64_t first_row = static_cast<int64_t>(blockIdx.x) * kWeightRows;
  const int steps = static_cast<int>(k / kStageK);

  const auto start_stage = [&](int step) {
    if (step < steps) {
      __nv_bfloat16* to = stages + step % kStages * kStageElements<kTokens>;
      const int64_t column = static_cast<int64_t>(step) * kStageK + lane % kChunks * 8;
#pragma unroll
      for (int r = lane / kChunks; r < kWeightRows; r += kWarp / kChunks)
        start_copy(to + r * kStride + lane % kChunks * 8, w_NK + (first_row + r) * k + column, false);
#pragma unroll
      for (int t = lane / kChunks; t < kTokens; t += kWarp / kChunks)
        start_copy(to + (kWeightRows + t) * kStride + lane % kChunks * 8, x_MK + (t < m ? t * k : 0) + column,
                   t >= m);
    }
    close_copies();
  };
#pragma unroll
  for (int s = 0; s < kStages - 1; ++s) start_stage(s);

  float acc[kTokens / 8][4] = {};
  for (int step = 0; step < steps; ++step) {
    wait_for_copies<kStages - 2>();
    __syncwarp();
    start_stage(step + kStages - 1);
    const __nv_bfloat16* w_shared = stages + step % kStages * kStageElements<kTokens>;
    const __nv_bfloat16* x_shared = w_shared + kWeightRows * kStride;
#pragma unroll
    for (int i = 0; i < kStageK; i += 32) {
      uint32_t a[2][4];
      load_matrices(a[0], w_shared + lane % 16 * kStride + i + lane / 16 * 8);
      load_matrices(a[1], w_shared + lane % 16 * kStride + i + 16 + lane / 16 * 8);
#pragma unroll
      for (int t = 0; t < kTokens / 8; ++t) {
        uint32_t b[4];
        load_matrices(b, x_shared + (t * 8 + lane % 8) * kStride + i + lane / 8 * 8);
        multiply_add_bf16(acc[t], a[0], b[0], b[1]);
        multiply_add_bf16(acc[t], a[1], b[2], b[3]);
      }
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
  constexpr int kBytes = kStages * kStageElements<kTokens> * static_cast<int>(sizeof(__nv_bfloat16));
  const auto kernel = multiply_few_rows<kTokens, Out>;
  check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, kBytes),
        "skinny: shared memory");
  kernel<<<static_cast<unsigned>(n / kWeightRows), kWarp, kBytes, stream>>>(
      y_MN, static_cast<const __nv_bfloat16*>(x_MK), static_cast<const __nv_bfloat16*>(w_NK),
      static_cast<int>(m), n, k, add);
}

}  // namespace

bool skinny_serves(int64_t m, int64_t n, int64_t k, DType weight) {
  return weight == DType::bf16 && m <= kMostRows && n % kWeightRows == 0 && k % kStageK == 0;
}

void skinny_product(cudaStream_t stream, void* y_MN, DType y_dtype, const void* x_MK, const void* w_NK,
                    int64_t m, int64_t n, int64_t k, bool add) {
  with_type(y_dtype, [&](auto out) {
    auto* y = static_cast<decltype(out)*>(y_MN);
    if (m <= 8)
      launch<8>(stream, y, x_MK, w_NK, m, n, k, add);
    else
      launch<16>(stream, y, x_MK, w_NK, m, n, k, add);
  });
  check_launch("skinny product");
}

}  // namespace penstock::cuda
