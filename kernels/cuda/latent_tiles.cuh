// Tiles of 64 keys on their way from the cache of latents to shared memory: four warps of a block copy, one
// tile ahead of the warps that compute. A tile is read once and serves twice: all of its 576 columns as K, the
// first 512 as V. Codes of one byte are widened on the way, code times scale rounded to float16, so that the
// products do not know of them.
//
// A tile is nine panels of 64 columns, swizzled as hopper.cuh says; ldmatrix reads them without conflicts too.
#pragma once

#include "kernels/cuda/hopper.cuh"
#include "kernels/cuda/latent_cache.cuh"
#include "kernels/cuda/latent_work.cuh"

namespace penstock::cuda {

constexpr int kLatentStages = 2;
constexpr int kLatentPanels = kLatentKey / kPanelColumns;
constexpr int kLatentTileBytes = kTileKeys * kLatentKey * 2;
constexpr int kCopierThreads = 128;

/// full: a tile has been copied; empty: the computing warps are through with it. `turn` counts the tiles of a
/// block, over all its units.
struct LatentStages {
  Barrier full[kLatentStages];
  Barrier empty[kLatentStages];

  __device__ void start(int computing_warps) {
    for (int i = 0; i < kLatentStages; ++i) {
      full[i].start(kCopierThreads / kWarp);
      empty[i].start(computing_warps);
    }
    publish_barriers();
  }
  __device__ void wait_for_tile(int turn) { full[turn % kLatentStages].wait_for(turn / kLatentStages); }
  /// By all lanes of a warp.
  __device__ void release(int turn) {
    __syncwarp();
    if (threadIdx.x % kWarp == 0) empty[turn % kLatentStages].arrive();
  }
  __device__ void wait_for_room(int turn) {
    if (turn >= kLatentStages) empty[turn % kLatentStages].wait_for(turn / kLatentStages - 1);
  }
};

/// Eight threads copy a panel's row, so a thread's keys are 16 apart.
constexpr int kKeysAtOnce = kCopierThreads / 8;
constexpr int kKeysAThread = kTileKeys / kKeysAtOnce;

/// Which positions of the cache this thread's keys are; -1 past the last.
__device__ inline void find_keys(int (&positions)[kKeysAThread], const LatentProblem& p, int row, int tile,
                                 int keys) {
#pragma unroll
  for (int i = 0; i < kKeysAThread; ++i) {
    const int position = tile * kTileKeys + i * kKeysAtOnce + static_cast<int>(threadIdx.x) / 8;
    positions[i] = -1;
    if (position < keys)
      positions[i] =
          p.batch.block_table_RB[row * p.batch.table_stride + position / p.block_size] * p.block_size +
          position % p.block_size;
  }
}

/// One position of a cache of this format, as the tensor-core kernels read it.
template <class Format>
constexpr int kPositionBytes = kLatentKey* static_cast<int>(sizeof(typename Format::Element)) +
                               (Format::kScaled ? 2 * static_cast<int>(sizeof(float)) : 0);

/// Eight codes times their scale, rounded to float16; what that cannot hold becomes its largest number.
template <class Format>
__device__ uint4 widened(uint2 codes, float scale) {
  const auto pair = [&](uint32_t four, int i) {
    const float2 x = Format::decode_pair(four, i);
    uint32_t both;
    asm("cvt.rn.satfinite.f16x2.f32 %0, %1, %2;" : "=r"(both) : "f"(x.y * scale), "f"(x.x * scale));
    return both;
  };
  return {pair(codes.x, 0), pair(codes.x, 1), pair(codes.y, 0), pair(codes.y, 1)};
}

__device__ inline void store_chunk(unsigned to, const uint4& x) {
  asm volatile("st.shared.v4.b32 [%0], {%1, %2, %3, %4};" ::"r"(to), "r"(x.x), "r"(x.y), "r"(x.z), "r"(x.w)
               : "memory");
}

/// This thread's share of a tile, written or under way when it returns.
template <class Format>
__device__ void start_tile(unsigned to, const LatentProblem& p, const int (&positions)[kKeysAThread]) {
  const int chunk = static_cast<int>(threadIdx.x) % 8;  // of a panel's row
  const int key = static_cast<int>(threadIdx.x) / 8;
  const unsigned at = to + swizzled(kTileKeys, key, chunk);
#pragma unroll
  for (int i = 0; i < kKeysAThread; ++i) {
    const bool zeros = positions[i] < 0;
    const char* from = p.latents + static_cast<int64_t>(zeros ? 0 : positions[i]) * kPositionBytes<Format>;
    const auto place = [&](int panel) {
      return at + static_cast<unsigned>((panel * kTileKeys + i * kKeysAtOnce) * 128);
    };
    if constexpr (!Format::kScaled) {
#pragma unroll
      for (int panel = 0; panel < kLatentPanels; ++panel)
        start_copy(place(panel), from + panel * 128 + chunk * 16, zeros);
    } else {
      uint2 codes[kLatentPanels];
#pragma unroll
      for (int panel = 0; panel < kLatentPanels; ++panel)
        codes[panel] = __ldg(reinterpret_cast<const uint2*>(from + panel * 64 + chunk * 8));
      float2 scales = __ldg(reinterpret_cast<const float2*>(from + kLatentKey));
#pragma unroll
      for (int panel = 0; panel < kLatentPanels; ++panel) {
        uint4 values = widened<Format>(codes[panel], panel < kLatentDim / kPanelColumns ? scales.x : scales.y);
        if (zeros) values = {};
        store_chunk(place(panel), values);
      }
    }
  }
  close_copies();
}

/// What the copying warps do.
template <class Format, int kRows>
__device__ void copy_latents(const LatentProblem& p, LatentStages& stages, unsigned tiles) {
  int turn = 0;
  for_each_unit<kRows>(p, [&](const LatentUnit& unit) {
    int positions[kKeysAThread];
    find_keys(positions, p, unit.queries.row, unit.first_tile, unit.keys);
    for (int tile = unit.first_tile; tile < unit.end_tile; ++tile, ++turn) {
      stages.wait_for_room(turn);
      start_tile<Format>(tiles + static_cast<unsigned>(turn % kLatentStages * kLatentTileBytes), p, positions);
      find_keys(positions, p, unit.queries.row, tile + 1, unit.keys);
      wait_for_copies<0>();
      publish_to_products();
      __syncwarp();
      if (threadIdx.x % kWarp == 0) stages.full[turn % kLatentStages].arrive();
    }
  });
}

/// Queries rounded to float16, kRows of them in panels like a tile's; by the kThreads computing threads, of
/// which this is number `thread`. Rows past the last repeat it.
template <int kRows, int kThreads>
__device__ void load_latent_queries(unsigned to, const LatentProblem& p, const LatentUnit& unit, int thread) {
  constexpr int kChunks = kLatentKey / 8;
#pragma unroll 3
  for (int i = thread; i < kRows * kChunks; i += kThreads) {
    const int row = i / kChunks;
    const int chunk = i % kChunks;
    const int64_t from = unit.row_of(p, min(unit.queries.first_item + row, unit.last_item)) * kLatentKey + chunk * 8;
    const uint4 values = {query_pair(p, from), query_pair(p, from + 2), query_pair(p, from + 4),
                          query_pair(p, from + 6)};
    store_chunk(to + swizzled(kRows, row, chunk), values);
  }
}

/// Threads of the computing warps meet.
template <int kThreads>
__device__ void meet() {
  asm volatile("bar.sync 1, %0;" ::"n"(kThreads) : "memory");
}

}  // namespace penstock::cuda
