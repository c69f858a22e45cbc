// FP8 products on Hopper. Inputs are rounded to FP8 first, by a kernel of their own, in the order in which
// the products read them. Then a block multiplies 64 or 128 rows of a weight with a tile of tokens: one warp
// copies, a warpgroup for every 64 rows multiplies. wgmma sums 128 of K (its accumulators keep about 14
// bits of a partial sum); those sums are scaled and added up in float32 registers.
//
// The weight is the instruction's first operand, with 64 rows always, the tokens are the second, with 8 to
// 128: only that number differs between a decode step and a prefill, so a token's bits do not.
//
// Bounds: with few tokens, reading the codes once. With many a tile of 128 x 128 x 128 takes the tensor cores
// 512 cycles of a multiprocessor, its promotion 256, hidden behind the other warpgroup's products, and its 32
// KiB from the L2 cache about 1000.
#include <cuda_fp8.h>

#include <algorithm>
#include <string>

#include "kernels/cuda/fp8_tile.cuh"
#include "kernels/cuda/hopper_fp8.cuh"

namespace penstock::cuda {
namespace {

constexpr int kRoundingThreads = 128;
constexpr float kLargestE4m3 = 448;
constexpr float kSmallestMagnitude = 0x1p-100F;  // below it a block's scale stays what it is there

/// Inputs in FP8: block b of 128 columns of the row in place i lies at (b places + i) * 128, its scale at
/// b places + i. Groups begin at places that are multiples of 8, so that a tile of any group can be copied as
/// it is: chunks are exchanged by place % 8.
struct RoundedInputs {
  unsigned char* codes;
  float* scales;
  int64_t places;
};

/// Groups take their rows and up to 8 places more.
__host__ __device__ int64_t first_place(int64_t start, int64_t group) {
  return (start / 8 + group) * 8;
}

/// Where row `row` stands.
__device__ int64_t place_of(const Fp8Problem& p, int row) {
  if (p.start_G1 == nullptr) return row;
  int group = 0;  // the last that starts at this row or before
  for (int end = static_cast<int>(p.groups); end - group > 1;) {
    const int middle = (group + end) / 2;
    if (p.start_G1[middle] <= row)
      group = middle;
    else
      end = middle;
  }
  return first_place(p.start_G1[group], group) + row - p.start_G1[group];
}

/// Grid (rows, parts of K): a thread rounds a chunk of 16 values, eight threads a block of columns.
__global__ void __launch_bounds__(kRoundingThreads)
    round_inputs(const __grid_constant__ Fp8Problem p, const RoundedInputs to) {
  constexpr int kValues = 16, kChunks = kFp8Tile / kValues;
  const auto chunk = static_cast<int>(blockIdx.y * kRoundingThreads + threadIdx.x);
  const int64_t block = chunk / kChunks, column = static_cast<int64_t>(chunk) * kValues;
  if (block >= fp8_tiles(p.k)) return;  // the same in the eight threads that meet below
  const auto row = static_cast<int>(blockIdx.x);
  const auto* const x_K = static_cast<const __nv_bfloat16*>(p.x) + row * p.x_row;
  float x[kValues];
  if (p.k % kValues == 0 && p.x_row % 8 == 0) {
    uint4 raw[2] = {};
    if (column < p.k)
      for (int i = 0; i < 2; ++i) raw[i] = reinterpret_cast<const uint4*>(x_K + column)[i];
    for (int i = 0; i < 2; ++i) {
      const uint32_t two[4] = {raw[i].x, raw[i].y, raw[i].z, raw[i].w};
#pragma unroll
      for (int j = 0; j < 8; ++j) x[i * 8 + j] = __uint_as_float(two[j / 2] >> (j % 2 * 16) << 16);
    }
  } else {
#pragma unroll
    for (int i = 0; i < kValues; ++i) x[i] = column + i < p.k ? widen(x_K[column + i]) : 0.0F;
  }
  float largest = kSmallestMagnitude;
#pragma unroll
  for (int i = 0; i < kValues; ++i) largest = fmaxf(largest, fabsf(x[i]));
  const unsigned together = 0xFFU << (threadIdx.x % kWarp / kChunks * kChunks);
#pragma unroll
  for (int step = kChunks / 2; step > 0; step /= 2)
    largest = fmaxf(largest, __shfl_xor_sync(together, largest, step));
  const float widest = kLargestE4m3 / largest;
  uint32_t codes[4] = {};  // what is no number becomes the code that is none
#pragma unroll
  for (int i = 0; i < kValues; i += 2)
    codes[i / 4] |= static_cast<uint32_t>(__nv_cvt_float2_to_fp8x2(
                        make_float2(x[i] * widest, x[i + 1] * widest), __NV_SATFINITE, __NV_E4M3))
                    << (i % 4 * 8);
  const int64_t place = block * to.places + place_of(p, row);
  *reinterpret_cast<uint4*>(to.codes + place * kFp8Tile + (chunk % kChunks ^ place % 8) * 16) = {
      codes[0], codes[1], codes[2], codes[3]};
  if (chunk % kChunks == 0) to.scales[place] = largest / kLargestE4m3;
}

/// Shared memory of a block that multiplies kRows rows of the weight with kTokens tokens.
template <int kRowsOfWeight, int kTokensOfTile>
struct Layout {
  static constexpr int kRows = kRowsOfWeight, kTokens = kTokensOfTile;
  static constexpr int kGroups = kRows / 64;  // warpgroups that multiply
  static constexpr int kMultipliers = kGroups * kWarpgroup;
  static constexpr int kThreads = kMultipliers + kWarp;
  static constexpr int kCodes = kRows * kFp8Tile;  // bytes of a stage: the weight's, then the tokens'
  static constexpr int kStageBytes = kCodes + kTokens * kFp8Tile;
  static constexpr int kScaleBytes = (kRows + kTokens) * 4;
  static constexpr int kDepth = kGroups > 1 ? 1 : 2;         // blocks of K multiplied at once
  static constexpr int kBlocksAtOnce = kGroups > 1 ? 1 : 2;  // on a multiprocessor
  static constexpr int kBudget = 208 * 1024 / kBlocksAtOnce;
  static constexpr int kStages = std::min(12, kBudget / (kStageBytes + kScaleBytes) / kDepth * kDepth);
  static constexpr int kScales = kStages * kStageBytes;
  static constexpr int kBytes = kScales + kStages * kScaleBytes;
};

/// A block's work: `tokens` of a group, from `place` on among the rounded inputs.
struct Tile {
  GroupTile tokens;
  int64_t place;
  int64_t row;  // the first of the weight
};

template <class L>
struct Stages {
  Barrier full[L::kStages];
  Barrier empty[L::kStages];
};

/// One thread copies everything, blocks of K in order.
template <class L>
__device__ void copy_tiles(const Fp8Problem& p, const RoundedInputs& x, const Tile& tile, Stages<L>& stages,
                           unsigned shared) {
  const Fp8Rows w(p, tile.tokens.group, tile.row);
  const int blocks = static_cast<int>(fp8_tiles(p.k));
  const int rounded_up = (blocks + L::kDepth - 1) / L::kDepth * L::kDepth;
  int stage = 0, round = 0;
  for (int b = 0; b < rounded_up; ++b) {
    if (round > 0) stages.empty[stage].wait_for(round - 1);
    Barrier& full = stages.full[stage];
    if (b < blocks) {
      full.arrive_and_expect(L::kStageBytes + L::kScaleBytes);
      const unsigned codes = shared + static_cast<unsigned>(stage * L::kStageBytes);
      const unsigned scales = shared + static_cast<unsigned>(L::kScales + stage * L::kScaleBytes);
      const int64_t place = b * x.places + tile.place;
      start_bulk_copy(codes, w.codes + static_cast<int64_t>(b) * kFp8TileBytes, L::kCodes, full);
      start_bulk_copy(codes + L::kCodes, x.codes + place * kFp8Tile, L::kTokens * kFp8Tile, full);
      start_bulk_copy(scales, w.scales + static_cast<int64_t>(b) * kFp8Tile, L::kRows * 4, full);
      start_bulk_copy(scales + L::kRows * 4, x.scales + place, L::kTokens * 4, full);
    } else {
      full.arrive();
    }
    if (++stage == L::kStages) {
      stage = 0;
      ++round;
    }
  }
}

/// One warpgroup: 64 rows of the block's. The products of kDepth blocks of K are under way at once; those
/// past the end multiply what happens to be there, and nobody reads them.
template <class L>
__device__ void multiply_tiles(const Fp8Problem& p, const Tile& tile, Stages<L>& stages,
                               const unsigned char* shared) {
  constexpr int kDepth = L::kDepth, kColumns = L::kTokens / 8;
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  const int first_row = static_cast<int>(threadIdx.x) / kWarp * 16;  // of this warp, in the block's rows
  const int blocks = static_cast<int>(fp8_tiles(p.k));
  // The same for all lanes, as the instruction's operands must be: the compiler keeps it so.
  const int group =
      L::kGroups == 1 ? 0 : __shfl_sync(kAllLanes, static_cast<int>(threadIdx.x) / kWarpgroup, 0);
  const unsigned codes = __shfl_sync(kAllLanes, shared_address(shared), 0);
  const uint64_t first_w = describe(codes + static_cast<unsigned>(group * 64 * kFp8Tile), 16);
  const uint64_t first_x = describe(codes + L::kCodes, 16);
  float acc[kColumns][4], partial[kDepth][kColumns][4];
#pragma unroll
  for (int j = 0; j < kColumns; ++j)
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      acc[j][i] = 0;
#pragma unroll
      for (int d = 0; d < kDepth; ++d) partial[d][j][i] = 0;
    }

  const auto start = [&](float(&sums)[kColumns][4], int stage, int round) {
    stages.full[stage].wait_for(round);
    const auto at = static_cast<uint64_t>(stage * L::kStageBytes / 16);
    begin_products();
#pragma unroll
    for (int i = 0; i < kFp8Tile / 16; i += 2) multiply_e4m3(sums, first_w + at + i, first_x + at + i, i > 0);
    close_products();
  };
  const auto promote = [&](const float(&sums)[kColumns][4], int stage) {
    const auto* scales = reinterpret_cast<const float*>(shared + L::kScales + stage * L::kScaleBytes);
    float of_row[2];
#pragma unroll
    for (int r = 0; r < 2; ++r) of_row[r] = scales[first_row + lane / 4 + 8 * r];
#pragma unroll
    for (int j = 0; j < kColumns; ++j) {
      const auto of_token = *reinterpret_cast<const float2*>(scales + L::kRows + j * 8 + lane % 4 * 2);
#pragma unroll
      for (int r = 0; r < 2; ++r) {
        acc[j][2 * r] = fmaf(sums[j][2 * r], of_row[r] * of_token.x, acc[j][2 * r]);
        acc[j][2 * r + 1] = fmaf(sums[j][2 * r + 1], of_row[r] * of_token.y, acc[j][2 * r + 1]);
      }
    }
  };

  int stage = 0, round = 0;
  for (int b = 0; b < blocks; b += kDepth) {
#pragma unroll
    for (int d = 0; d < kDepth; ++d) start(partial[d], stage + d, round);
#pragma unroll
    for (int d = 0; d < kDepth; ++d) {
      wait_for_codes(partial[d], kDepth - 1 - d);
      if (b + d < blocks) promote(partial[d], stage + d);
    }
    __syncwarp();
    if (lane < kDepth) stages.empty[stage + lane].arrive();
    stage += kDepth;
    if (stage == L::kStages) {
      stage = 0;
      ++round;
    }
  }
  store(p, acc, tile.row + first_row, tile.tokens);
}

template <class L>
__global__ void __launch_bounds__(L::kThreads, L::kBlocksAtOnce)
    multiply_codes(const __grid_constant__ Fp8Problem p, const RoundedInputs x, int64_t slots,
                   int64_t row_tiles) {
  extern __shared__ __align__(1024) unsigned char shared[];
  __shared__ Stages<L> stages;
  const BlockPlace block = BlockPlace::of(blockIdx.x, slots, row_tiles);
  if (block.slot >= slots) return;
  const GroupTile tokens =
      find_tile<L::kThreads>(p.start_G1, static_cast<int>(p.groups), static_cast<int>(p.rows), L::kTokens,
                             static_cast<int>(block.slot));
  if (tokens.count == 0) return;
  if (threadIdx.x == 0) {
    for (int i = 0; i < L::kStages; ++i) {
      stages.full[i].start(1);
      stages.empty[i].start(L::kMultipliers / kWarp);
    }
    publish_barriers();
  }
  __syncthreads();
  Tile tile{tokens, tokens.first, block.row_tile * L::kRows};
  if (p.start_G1 != nullptr) {
    const int start = p.start_G1[tokens.group];
    tile.place = first_place(start, tokens.group) + tokens.first - start;
  }
  if (threadIdx.x < L::kMultipliers)
    multiply_tiles<L>(p, tile, stages, shared);
  else if (one_of_warp())
    copy_tiles<L>(p, x, tile, stages, shared_address(shared));
}

template <class L>
void launch(cudaStream_t stream, const Fp8Problem& p, const RoundedInputs& x) {
  const auto kernel = multiply_codes<L>;
  check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, L::kBytes),
        "FP8 product: shared memory");
  const int64_t slots = most_tiles(p, L::kTokens), row_tiles = (p.n + L::kRows - 1) / L::kRows;
  kernel<<<static_cast<unsigned>(BlockPlace::blocks(slots, row_tiles)), L::kThreads, L::kBytes, stream>>>(
      p, x, slots, row_tiles);
  check_launch("FP8 product");
}

/// The tile decides speed only. Products of few blocks take as long as one block does: then smaller tiles of
/// tokens are better, up to as many as there are multiprocessors.
void multiply(cudaStream_t stream, const Fp8Problem& p, const RoundedInputs& x, const Gpu& gpu) {
  const int64_t tokens = expected_rows(p);
  const auto blocks = [&](int64_t rows, int64_t of_tokens) {
    return most_tiles(p, of_tokens) * ((p.n + rows - 1) / rows);
  };
  // A large tile takes half again as long as two small ones, which run at once.
  const auto waves = [&](int64_t count, int64_t at_once) {
    return (count + at_once * gpu.multiprocessors - 1) / (at_once * gpu.multiprocessors);
  };
  if (tokens > 64 && 3 * waves(blocks(128, 128), 1) <= 2 * waves(blocks(64, 64), 2))
    return launch<Layout<128, 128>>(stream, p, x);
  const auto serves = [&](int64_t of_tokens) {  // no smaller one is wanted
    return tokens > of_tokens / 2 && 4 * blocks(64, of_tokens) >= 3 * gpu.multiprocessors;
  };
  if (serves(64))
    launch<Layout<64, 64>>(stream, p, x);
  else if (serves(32))
    launch<Layout<64, 32>>(stream, p, x);
  else if (serves(16))
    launch<Layout<64, 16>>(stream, p, x);
  else
    launch<Layout<64, 8>>(stream, p, x);
}

/// Of rows [first, first + rows) the offsets of the groups.
__global__ void cut_groups(int32_t* to_G1, const int32_t* start_G1, int groups, int first, int rows) {
  const int g = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x);
  if (g <= groups) to_G1[g] = min(max(start_G1[g] - first, 0), rows);
}

}  // namespace

void fp8_product_on_hopper(cudaStream_t stream, const Fp8Problem& p, Workspace workspace, const Gpu& gpu) {
  constexpr int64_t kMostTokens = 128;  // of a tile: the last may reach so far past the last row
  const int64_t blocks = fp8_tiles(p.k);
  const int64_t place_bytes = blocks * (kFp8Tile + static_cast<int64_t>(sizeof(float)));
  const int64_t starts_bytes = (p.groups + 1) * 4;
  const int64_t spare = first_place(0, p.groups) + kMostTokens;
  const int64_t most_rows =
      (static_cast<int64_t>(workspace.bytes) - starts_bytes) / place_bytes / 8 * 8 - spare;
  if (most_rows <= 0)
    throw Error("an FP8 product of " + std::to_string(p.k) + " columns takes more workspace than " +
                std::to_string(workspace.bytes >> 20) + " MiB");
  for (int64_t first = 0; first < p.rows; first += most_rows) {
    Fp8Problem some = p;
    some.rows = std::min(most_rows, p.rows - first);
    some.x = static_cast<const __nv_bfloat16*>(p.x) + first * p.x_row;
    some.y = static_cast<char*>(p.y) + static_cast<size_t>(first * p.y_row) * bytes_of(p.out);
    const int64_t places = (some.rows + 7) / 8 * 8 + spare;
    auto* const codes = static_cast<unsigned char*>(workspace.data);
    auto* const scales = reinterpret_cast<float*>(codes + blocks * places * kFp8Tile);
    if (p.start_G1 != nullptr && some.rows < p.rows) {
      auto* const cut = reinterpret_cast<int32_t*>(scales + blocks * places);
      cut_groups<<<static_cast<unsigned>(p.groups / 256 + 1), 256, 0, stream>>>(
          cut, p.start_G1, static_cast<int>(p.groups), static_cast<int>(first), static_cast<int>(some.rows));
      check_launch("groups of an FP8 product");
      some.start_G1 = cut;
    }
    const RoundedInputs x{codes, scales, places};
    const int64_t parts = (blocks * (kFp8Tile / 16) + kRoundingThreads - 1) / kRoundingThreads;
    round_inputs<<<dim3(static_cast<unsigned>(some.rows), static_cast<unsigned>(parts)), kRoundingThreads, 0,
                   stream>>>(some, x);
    check_launch("rounding inputs to FP8");
    multiply(stream, some, x, gpu);
  }
}

}  // namespace penstock::cuda
