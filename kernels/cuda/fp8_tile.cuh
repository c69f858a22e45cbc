// What the kernels of FP8 weights share: where a tile of a weight lies, and where results go. Accumulators
// are fragments of wgmma and mma alike: 16 rows of the weight a warp, lane l has rows l / 4 and l / 4 + 8
// and, of every 8 tokens, l % 4 * 2 and the next.
#pragma once

#include "kernels/cuda/fp8_matrix.h"
#include "kernels/cuda/fp8_product.h"
#include "kernels/cuda/grouped_tile.cuh"

namespace penstock::cuda {

constexpr int kFp8TileBytes = kFp8Tile * kFp8Tile;

/// Tiles that lie behind one another over `size` rows or columns.
__host__ __device__ constexpr int64_t fp8_tiles(int64_t size) {
  return (size + kFp8Tile - 1) / kFp8Tile;
}

/// Offset of the 16-byte chunk of columns 16 chunk ... 16 chunk + 15 in a tile.
__device__ inline int fp8_chunk(int row, int chunk) {
  return row * kFp8Tile + (chunk ^ (row % 8)) * 16;
}

/// Some rows of a weight, over all of K. Tile b of their codes lies b kFp8TileBytes behind `codes`, that of
/// their scales b kFp8Tile behind `scales`.
struct Fp8Rows {
  const unsigned char* codes;
  const float* scales;

  __device__ Fp8Rows(const Fp8Problem& p, int group, int64_t row) {
    const void* w = p.w_G == nullptr ? p.w : p.w_G[group];
    const int64_t blocks = fp8_tiles(p.k), tile = row / kFp8Tile * blocks;
    codes = static_cast<const unsigned char*>(w) + tile * kFp8TileBytes + row % kFp8Tile * kFp8Tile;
    scales = reinterpret_cast<const float*>(static_cast<const unsigned char*>(w) +
                                            fp8_tiles(p.n) * blocks * kFp8TileBytes) +
             tile * kFp8Tile + row % kFp8Tile;
  }
};

/// Which slot and which rows of the weight a block has. A wave of blocks covers a few slots and many rows, so
/// that what several blocks read is in the cache.
struct BlockPlace {
  int64_t slot;  // number of a GroupTile
  int64_t row_tile;

  static constexpr int64_t kBand = 8;  // slots
  static int64_t blocks(int64_t slots, int64_t row_tiles) {
    const int64_t band = slots < kBand ? slots : kBand;
    return (slots + band - 1) / band * band * row_tiles;
  }
  __device__ static BlockPlace of(int64_t block, int64_t slots, int64_t row_tiles) {
    const int64_t band = slots < kBand ? slots : kBand, in_band = block % (band * row_tiles);
    return {block / (band * row_tiles) * band + in_band % band, in_band / band};
  }
};

template <int kColumns, class Out>
__device__ void store_fragments(Out* y_Rn, const Fp8Problem& p, const float (&acc)[kColumns][4], int64_t row,
                                const GroupTile& tokens) {
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    const int64_t n = row + lane / 4 + 8 * r;
    if (n >= p.n) continue;
    const float bias = p.bias_N == nullptr ? 0.0F : p.bias_N[n];
#pragma unroll
    for (int j = 0; j < kColumns; ++j)
#pragma unroll
      for (int c = 0; c < 2; ++c) {
        const int token = j * 8 + lane % 4 * 2 + c;
        if (token >= tokens.count) continue;
        Out& y = y_Rn[static_cast<int64_t>(tokens.first + token) * p.y_row + n];
        float sum = acc[j][2 * r + c];
        if (p.bias_N != nullptr) sum += bias;
        put(y, p.add ? sum + widen(y) : sum);
      }
  }
}

/// Writes a warp's 16 rows, `row` being the first, of the tokens of a tile.
template <int kColumns>
__device__ void store(const Fp8Problem& p, const float (&acc)[kColumns][4], int64_t row,
                      const GroupTile& tokens) {
  if (p.out == DType::bf16)
    store_fragments(static_cast<__nv_bfloat16*>(p.y), p, acc, row, tokens);
  else
    store_fragments(static_cast<float*>(p.y), p, acc, row, tokens);
}

/// fp8_product of bfloat16 inputs where wgmma is.
void fp8_product_on_hopper(cudaStream_t stream, const Fp8Problem& problem, Workspace workspace,
                           const Gpu& gpu);

}  // namespace penstock::cuda
