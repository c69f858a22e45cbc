// skinny.cu for Hopper: the same sums in the same order, from tiles that the copy engine brings, started
// while the kernel before still runs, and with SwiGLU where the weight is that of a gated MLP.
#include "kernels/cuda/overlap.cuh"
#include "kernels/cuda/silu.cuh"
#include "kernels/cuda/skinny.h"
#include "kernels/cuda/tensor_map.h"
#include "kernels/cuda/tile_copy.cuh"

namespace penstock::cuda {
namespace {

constexpr int kHalfRows = 8;  // of the weight, twice a block: neighbours, or gate and up of the same features
constexpr int kPanels = 4;    // of 64 columns, in a stage; the last has 2 where K is no multiple of 256
constexpr int kStageK = kPanels * kPanelColumns;

/// A ring of stages: both halves of the weight's rows, then x. Three blocks share a multiprocessor.
template <int kTokens>
struct Layout {
  static constexpr int kStages = kTokens == 8 ? 5 : 4;
  static constexpr int kHalf = kHalfRows * kStageK * 2;
  static constexpr int kStage = 2 * kHalf + kTokens * kStageK * 2;
  static constexpr int kBytes = kStages * kStage;
};

struct Problem {
  CUtensorMap w_NK;  // in tiles of kHalfRows
  CUtensorMap x_MK;  // in tiles of kTokens
  int m, k;
  int second_half;  // how many rows after the first half's
  int block_rows;   // how many rows after the block before begins the next
  int64_t y_columns;
  bool add;
};

/// One warp a block: 16 rows of the weight times m <= kTokens rows of x.
template <int kTokens, bool kGated, class Out>
__global__ void __launch_bounds__(kWarp) multiply_few_rows(Out* y_MN, const __grid_constant__ Problem p) {
  constexpr int kStages = Layout<kTokens>::kStages;
  extern __shared__ __align__(1024) unsigned char shared[];
  __shared__ Barrier full[kStages];
  const int lane = static_cast<int>(threadIdx.x);
  const int first_row = static_cast<int>(blockIdx.x) * p.block_rows;
  const int steps = (p.k + kStageK - 1) / kStageK;
  const auto stage_of = [&](int step) {
    return shared_address(shared) + static_cast<unsigned>(step % kStages * Layout<kTokens>::kStage);
  };
  const auto copy_weight = [&](int step) {
    Barrier& barrier = full[step % kStages];
    barrier.arrive_and_expect(Layout<kTokens>::kStage);
    read_panels(stage_of(step), p.w_NK, first_row, step * kPanels, barrier);
    read_panels(stage_of(step) + Layout<kTokens>::kHalf, p.w_NK, first_row + p.second_half, step * kPanels,
                barrier);
  };
  const auto copy_tokens = [&](int step) {
    read_panels(stage_of(step) + 2 * Layout<kTokens>::kHalf, p.x_MK, 0, step * kPanels, full[step % kStages]);
  };

  let_next_start();
  const int first_steps = min(kStages, steps);
  if (lane == 0) {
    for (Barrier& barrier : full) barrier.start(1);
    publish_barriers();
    for (int s = 0; s < first_steps; ++s) copy_weight(s);
  }
  wait_for_previous();
  if (lane == 0)
    for (int s = 0; s < first_steps; ++s) copy_tokens(s);
  __syncwarp();

  // Where this lane's rows of the matrices that it loads lie in a panel.
  unsigned w_at[4], x_at[2];
#pragma unroll
  for (int i = 0; i < 4; ++i)
    w_at[i] = static_cast<unsigned>(lane / 8 % 2 * Layout<kTokens>::kHalf) +
              swizzled(kHalfRows, lane % 8, 2 * i + lane / 16);
#pragma unroll
  for (int i = 0; i < 2; ++i) x_at[i] = swizzled(kTokens, lane % 8, 4 * i + lane / 8);

  float acc[kTokens / 8][4] = {};
  for (int step = 0; step < steps; ++step) {
    full[step % kStages].wait_for(step / kStages);
    const unsigned w = stage_of(step), x = w + 2 * Layout<kTokens>::kHalf;
    const int panels = min(kPanels, (p.k - step * kStageK) / kPanelColumns);
    for (int first = 0; first < panels; first += 2) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {  // 32 columns each
        const auto panel = static_cast<unsigned>(first + i / 2);
        const unsigned w_panel = w + panel * (kHalfRows * 128), x_panel = x + panel * (kTokens * 128);
        uint32_t a[2][4];
        load_matrices(a[0], w_panel + w_at[i % 2 * 2]);
        load_matrices(a[1], w_panel + w_at[i % 2 * 2 + 1]);
#pragma unroll
        for (int t = 0; t < kTokens / 8; ++t) {
          uint32_t b[4];
          load_matrices(b, x_panel + x_at[i % 2] + t * (8 * 128));
          multiply_add_bf16(acc[t], a[0], b[0], b[1]);
          multiply_add_bf16(acc[t], a[1], b[2], b[3]);
        }
      }
    }
    __syncwarp();
    if (const int next = step + kStages; lane == 0 && next < steps) {
      copy_weight(next);
      copy_tokens(next);
    }
  }

  // A lane's first two sums belong to a row of the first half, the others to the same row of the second.
#pragma unroll
  for (int t = 0; t < kTokens / 8; ++t)
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const int token = t * 8 + lane % 4 * 2 + i;
      if (token >= p.m) continue;
      Out* y_N = y_MN + token * p.y_columns + first_row + lane / 4;
      const float low = acc[t][i], high = acc[t][i + 2];
      if constexpr (kGated) {
        put(*y_N, silu_times(low, high));
      } else {
        put(y_N[0], p.add ? low + widen(y_N[0]) : low);
        put(y_N[kHalfRows], p.add ? high + widen(y_N[kHalfRows]) : high);
      }
    }
}

template <int kTokens, bool kGated, class Out>
void launch(cudaStream_t stream, Out* y_MN, const void* x_MK, const void* w_NK, int64_t m, int64_t n,
            int64_t k, bool add) {
  const auto kernel = multiply_few_rows<kTokens, kGated, Out>;
  check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, Layout<kTokens>::kBytes),
        "skinny: shared memory");
  const auto half = static_cast<int>(n / 2);
  const Problem p{map_panels(w_NK, n, k, kHalfRows, kPanels),
                  map_panels(x_MK, m, k, kTokens, kPanels),
                  static_cast<int>(m),
                  static_cast<int>(k),
                  kGated ? half : kHalfRows,
                  kGated ? kHalfRows : 2 * kHalfRows,
                  kGated ? half : n,
                  add};
  launch_overlapped("skinny product", stream, kernel, static_cast<unsigned>(n / (2 * kHalfRows)), kWarp,
                    Layout<kTokens>::kBytes, y_MN, p);
}

}  // namespace

void skinny_product_on_hopper(cudaStream_t stream, void* y_MN, DType y_dtype, const void* x_MK,
                              const void* w_NK, int64_t m, int64_t n, int64_t k, bool add) {
  with_type(y_dtype, [&](auto out) {
    auto* y = static_cast<decltype(out)*>(y_MN);
    if (m <= 8)
      launch<8, false>(stream, y, x_MK, w_NK, m, n, k, add);
    else
      launch<16, false>(stream, y, x_MK, w_NK, m, n, k, add);
  });
}

void skinny_gated_product(cudaStream_t stream, void* y_MF, const void* x_MK, const void* w_2FK, int64_t m,
                          int64_t f, int64_t k) {
  auto* y = static_cast<__nv_bfloat16*>(y_MF);
  if (m <= 8)
    launch<8, true>(stream, y, x_MK, w_2FK, m, 2 * f, k, false);
  else
    launch<16, true>(stream, y, x_MK, w_2FK, m, 2 * f, k, false);
}

}  // namespace penstock::cuda
