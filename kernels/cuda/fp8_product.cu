// Products with FP8 weights where no FP8 is multiplied: other GPUs than Hopper, and float32 everywhere. Codes
// are widened in registers, exactly; scales are applied to the sums over 128 of K.
#include <algorithm>

#include "kernels/cuda/fp8_product.h"
#include "kernels/cuda/fp8_tile.cuh"
#include "kernels/cuda/tensor_core.cuh"

namespace penstock::cuda {
namespace {

constexpr int kWarps = 4;
constexpr int kThreads = kWarps * kWarp;
constexpr int kRows = 16 * kWarps;  // of the weight, a block
constexpr int kStages = 4;

/// Shared memory of a stage: kRows rows of codes, then kTokens rows of x.
template <class In, int kTokens>
struct Layout {
  static constexpr int kCodes = kRows * kFp8Tile;
  static constexpr int kChunk = 16 / static_cast<int>(sizeof(In));  // values that one copy takes
  static constexpr int kStride = kFp8Tile + kChunk;  // of a row of x, so that rows begin in different banks
  static constexpr int kStageBytes = kCodes + kTokens * kStride * static_cast<int>(sizeof(In));
  static constexpr int kBytes = kStages * kStageBytes;
};

/// Exponents of E4M3 have a bias of 7, those of the wider numbers one of 127.
constexpr float kBiases = 0x1p120F;

/// Codes 2 half and 2 half + 1 of four.
__device__ uint32_t widen_two(uint32_t four, int half) {
  const uint32_t high = __byte_perm(four, 0, half == 0 ? 0x1404 : 0x3424);  // each the high byte of 16 bits
  const uint32_t bits = (high & 0x80008000) | (high & 0x7F007F00) >> 4;
  __nv_bfloat162 two;
  memcpy(&two, &bits, sizeof two);
  two = __hmul2(two, __float2bfloat162_rn(kBiases));
  uint32_t widened = 0;
  memcpy(&widened, &two, sizeof two);
  return widened;
}
__device__ float widen_one(uint32_t four, int i) {
  const uint32_t code = four >> (8 * i);
  return __uint_as_float((code & 0x80) << 24 | (code & 0x7F) << 20) * kBiases;
}

/// sums = this warp's 16 rows of codes times the tokens, over 128 of K. Lane l multiplies chunks l % 4 and l
/// % 4 + 4 of the columns: the same order in both operands, so any will do.
template <int kColumns>
__device__ void multiply(float (&sums)[kColumns][4], const unsigned char* codes, const __nv_bfloat16* x,
                         int stride, int lane) {
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int c = lane % 4 + 4 * half;
    uint32_t w[2][4];  // 16 codes of each row
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      const auto four = *reinterpret_cast<const uint4*>(codes + fp8_chunk(lane / 4 + 8 * r, c));
      w[r][0] = four.x, w[r][1] = four.y, w[r][2] = four.z, w[r][3] = four.w;
    }
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const uint32_t a[4] = {widen_two(w[0][i], 0), widen_two(w[1][i], 0), widen_two(w[0][i], 1),
                             widen_two(w[1][i], 1)};
#pragma unroll
      for (int j = 0; j < kColumns; ++j) {
        const auto b = *reinterpret_cast<const uint2*>(x + (j * 8 + lane / 4) * stride + c * 16 + i * 4);
        multiply_add_bf16(sums[j], a, b.x, b.y);
      }
    }
  }
}
/// The same one multiply-add at a time, in the order of K.
template <int kColumns>
__device__ void multiply(float (&sums)[kColumns][4], const unsigned char* codes, const float* x, int stride,
                         int lane) {
  for (int k = 0; k < kFp8Tile; k += 4) {
    uint32_t w[2];
#pragma unroll
    for (int r = 0; r < 2; ++r)
      w[r] = *reinterpret_cast<const uint32_t*>(codes + fp8_chunk(lane / 4 + 8 * r, k / 16) + k % 16);
#pragma unroll
    for (int i = 0; i < 4; ++i)
#pragma unroll
      for (int j = 0; j < kColumns; ++j)
#pragma unroll
        for (int e = 0; e < 4; ++e)
          sums[j][e] =
              fmaf(widen_one(w[e / 2], i), x[(j * 8 + lane % 4 * 2 + e % 2) * stride + k + i], sums[j][e]);
  }
}

template <class In, int kTokens>
__global__ void __launch_bounds__(kThreads)
    multiply_widened(const __grid_constant__ Fp8Problem p, int64_t slots, int64_t row_tiles) {
  using L = Layout<In, kTokens>;
  extern __shared__ __align__(128) unsigned char shared[];
  const BlockPlace block = BlockPlace::of(blockIdx.x, slots, row_tiles);
  if (block.slot >= slots) return;
  const GroupTile tokens =
      find_tile<kThreads>(p.start_G1, static_cast<int>(p.groups), static_cast<int>(p.rows), kTokens,
                          static_cast<int>(block.slot));
  if (tokens.count == 0) return;
  const int thread = static_cast<int>(threadIdx.x), lane = thread % kWarp, warp = thread / kWarp;
  const int blocks = static_cast<int>(fp8_tiles(p.k));
  const Fp8Rows w(p, tokens.group, block.row_tile * kRows);
  const In* const x_RK = static_cast<const In*>(p.x) + tokens.first * p.x_row;
  const bool whole_chunks = p.k % L::kChunk == 0 && p.x_row % L::kChunk == 0;

  const auto start_stage = [&](int b) {
    if (b < blocks) {
      unsigned char* const codes = shared + b % kStages * L::kStageBytes;
      for (int i = thread * 16; i < L::kCodes; i += kThreads * 16)
        start_copy(codes + i, w.codes + static_cast<int64_t>(b) * kFp8TileBytes + i, false);
      auto* const x = reinterpret_cast<In*>(codes + L::kCodes);
      for (int i = thread; i < kTokens * kFp8Tile / L::kChunk; i += kThreads) {
        const int t = i / (kFp8Tile / L::kChunk), c = i % (kFp8Tile / L::kChunk) * L::kChunk;
        const int64_t column = static_cast<int64_t>(b) * kFp8Tile + c;
        const In* const from = x_RK + t * p.x_row + column;
        In* const to = x + t * L::kStride + c;
        if (whole_chunks) {
          const bool zeros = t >= tokens.count || column >= p.k;
          start_copy(to, zeros ? x_RK : from, zeros);
        } else {
          for (int e = 0; e < L::kChunk; ++e)
            put(to[e], t < tokens.count && column + e < p.k ? widen(from[e]) : 0.0F);
        }
      }
    }
    close_copies();
  };
#pragma unroll
  for (int s = 0; s < kStages - 1; ++s) start_stage(s);

  float acc[kTokens / 8][4] = {};
  for (int b = 0; b < blocks; ++b) {
    float scales[2];
#pragma unroll
    for (int r = 0; r < 2; ++r)
      scales[r] = w.scales[static_cast<int64_t>(b) * kFp8Tile + warp * 16 + lane / 4 + 8 * r];
    wait_for_copies<kStages - 2>();
    __syncthreads();
    start_stage(b + kStages - 1);
    const unsigned char* const codes = shared + b % kStages * L::kStageBytes;
    float sums[kTokens / 8][4] = {};
    multiply(sums, codes + warp * 16 * kFp8Tile, reinterpret_cast<const In*>(codes + L::kCodes), L::kStride,
             lane);
#pragma unroll
    for (int j = 0; j < kTokens / 8; ++j)
#pragma unroll
      for (int e = 0; e < 4; ++e) acc[j][e] = fmaf(sums[j][e], scales[e / 2], acc[j][e]);
  }
  store(p, acc, block.row_tile * kRows + warp * 16, tokens);
}

template <class In, int kTokens>
void launch(cudaStream_t stream, const Fp8Problem& p) {
  constexpr int kBytes = Layout<In, kTokens>::kBytes;
  const auto kernel = multiply_widened<In, kTokens>;
  check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, kBytes),
        "FP8 product: shared memory");
  const int64_t slots = most_tiles(p, kTokens), row_tiles = (p.n + kRows - 1) / kRows;
  kernel<<<static_cast<unsigned>(BlockPlace::blocks(slots, row_tiles)), kThreads, kBytes, stream>>>(
      p, slots, row_tiles);
  check_launch("FP8 product");
}

}  // namespace

void fp8_product(cudaStream_t stream, const Fp8Problem& p, Workspace workspace, const Gpu& gpu) {
  if (p.rows == 0) return;
  if (p.in == DType::bf16 && gpu.is_hopper)
    fp8_product_on_hopper(stream, p, workspace, gpu);
  else if (p.in == DType::f32)
    launch<float, 16>(stream, p);
  else if (p.rows <= 16 * p.groups)
    launch<__nv_bfloat16, 16>(stream, p);
  else
    launch<__nv_bfloat16, 64>(stream, p);
}

}  // namespace penstock::cuda
