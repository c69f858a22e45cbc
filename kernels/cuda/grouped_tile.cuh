// Which rows of which group a block of a grouped product works on.
#pragma once

#include <algorithm>

#include "kernels/cuda/common.cuh"
#include "kernels/cuda/grouped.h"

namespace penstock::cuda {

/// Rows [first, first + count) of a group; none where count is 0.
struct GroupTile {
  int group = 0;
  int first = 0;
  int count = 0;
};

/// As many tiles of `tile_rows` rows as the groups can have, however the rows are spread over them.
inline int64_t most_tiles(const GroupedProblem& p, int64_t tile_rows) {
  if (p.start_G1 == nullptr) return p.groups * ((p.rows + tile_rows - 1) / tile_rows);
  return (p.rows + std::min(p.groups, p.rows) * (tile_rows - 1)) / tile_rows;
}

/// The tile of this number, counted over all groups in order. Called by all kThreads threads of a block, and
/// the same in all of them.
template <int kThreads>
__device__ GroupTile find_tile(const int32_t* start_G1, int groups, int rows, int tile_rows, int tile) {
  if (start_G1 == nullptr) {
    const int tiles = (rows + tile_rows - 1) / tile_rows;
    const int first = tile % tiles * tile_rows;
    return {tile / tiles, first, min(tile_rows, rows - first)};
  }
  __shared__ GroupTile found;
  __shared__ int shared[kThreads / kWarp];
  const auto tiles_of = [&](int g) { return (start_G1[g + 1] - start_G1[g] + tile_rows - 1) / tile_rows; };
  const int thread = static_cast<int>(threadIdx.x);
  const int each = (groups + kThreads - 1) / kThreads;
  const int end = min((thread + 1) * each, groups);
  int mine = 0;
  for (int g = thread * each; g < end; ++g) mine += tiles_of(g);
  if (thread == 0) found = {};
  const int until = running_sum<kThreads>(mine, shared);
  if (tile < until && tile >= until - mine) {
    int before = until - mine;
    int g = thread * each;
    while (before + tiles_of(g) <= tile) before += tiles_of(g++);
    const int first = start_G1[g] + (tile - before) * tile_rows;
    found = {g, first, min(tile_rows, start_G1[g + 1] - first)};
  }
  __syncthreads();
  return found;
}

}  // namespace penstock::cuda
