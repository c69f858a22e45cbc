// Tiles of 64 keys on their way from the cache of latents to shared memory: four warps of a block copy, one
// tile ahead of the warps that compute. A tile is read once and serves twice: all of its 576 columns as K,
// the first 512 as V. Codes of one byte are widened on the way, code times scale rounded to float16, so that
// the products do not know of them.
//
// A tile is nine panels of 64 columns, swizzled as hopper.cuh says; ldmatrix reads them without conflicts
// too.
#pragma once

#include "kernels/cuda/hopper.cuh"
#include "kernels/cuda/latent_cache.cuh"
#include "kernels/cuda/latent_work.cuh"

namespace penstock::cuda {

constexpr int kLatentStages = 2;
constexpr int kLatentPanels = kLatentKey / kPanelColumns;
constexpr int kLatentTileBytes = kTileKeys * kLatentKey * 2;
constexpr int kCopierThreads = 128;

/// Places in shared memory that some warps fill and others empty, by turns. `turn` counts what has passed
/// through them, over all units of a block.
struct Turns {
  static constexpr int kPlaces = kLatentStages;
  Barrier full[kPlaces];
  Barrier empty[kPlaces];

  /// By one thread, before the block synchronises.
  __device__ void start(int filling_threads, int emptying_warps) {
    for (int i = 0; i < kPlaces; ++i) {
      full[i].start(filling_threads);
      empty[i].start(emptying_warps);
    }
    publish_barriers();
  }
  __device__ void wait_for_room(int turn) {
    if (turn >= kPlaces) empty[turn % kPlaces].wait_for(turn / kPlaces - 1);
  }
  /// By a filling thread: what it wrote may be read once all have said so.
  __device__ void publish(int turn) { full[turn % kPlaces].arrive(); }
  /// The same once the copies that this thread has started have ended; the thread goes on.
  __device__ void publish_when_copied(int turn) {
    asm volatile("cp.async.mbarrier.arrive.noinc.shared::cta.b64 [%0];" ::"r"(
                     shared_address(&full[turn % kPlaces].state))
                 : "memory");
  }
  __device__ void wait_until_full(int turn) { full[turn % kPlaces].wait_for(turn / kPlaces); }
  /// By all lanes of an emptying warp.
  __device__ void release(int turn) {
    __syncwarp();
    if (threadIdx.x % kWarp == 0) empty[turn % kPlaces].arrive();
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

/// Rounded to float16; what that cannot hold becomes its largest number.
__device__ inline uint32_t half_pair(float low, float high) {
  uint32_t both;
  asm("cvt.rn.satfinite.f16x2.f32 %0, %1, %2;" : "=r"(both) : "f"(high), "f"(low));
  return both;
}

/// Eight codes times their scale.
template <class Format>
__device__ uint4 widened(uint2 codes, float scale) {
  const auto pair = [&](uint32_t four, int i) {
    const float2 x = Format::decode_pair(four, i);
    return half_pair(x.x * scale, x.y * scale);
  };
  return {pair(codes.x, 0), pair(codes.x, 1), pair(codes.y, 0), pair(codes.y, 1)};
}

/// Eight bytes, or zeros. The compiler leaves the load where it is, ahead of its use.
__device__ inline uint2 load_now(const char* from, bool zeros) {
  uint2 x{0, 0};
  asm volatile(
      "{ .reg .pred p; setp.eq.b32 p, %3, 0;\n"
      "@p ld.global.nc.v2.b32 {%0, %1}, [%2]; }"
      : "+r"(x.x), "+r"(x.y)
      : "l"(from), "r"(static_cast<int>(zeros)));
  return x;
}

__device__ inline void store_chunk(unsigned to, const uint4& x) {
  asm volatile("st.shared.v4.b32 [%0], {%1, %2, %3, %4};" ::"r"(to), "r"(x.x), "r"(x.y), "r"(x.z), "r"(x.w)
               : "memory");
}

/// What the copying threads of a block do; each with its own share of every tile. kForProducts: the tiles are
/// read by wgmma.
template <int kRows, bool kForProducts>
class LatentCopier {
 public:
  __device__ LatentCopier(const LatentProblem& problem, Turns& turns, unsigned tiles)
      : p(problem), stages(turns) {
    const int chunk = static_cast<int>(threadIdx.x) % 8;  // of a panel's row
    first_place = tiles + swizzled(kTileKeys, static_cast<int>(threadIdx.x) / 8, chunk);
  }

  template <class Format>
  __device__ void copy_all() {
    int turn = 0;
    for_each_unit<kRows>(p, [&](const LatentUnit& unit) {
      fetch_queries(unit);
      if constexpr (Format::kScaled)
        widen_unit<Format>(unit, turn);
      else
        copy_unit(unit, turn);
    });
  }

 private:
  /// Where chunk `panel` of this thread's key i goes.
  __device__ unsigned place(int turn, int i, int panel) const {
    return first_place + static_cast<unsigned>(turn % kLatentStages * kLatentTileBytes +
                                               (panel * kTileKeys + i * kKeysAtOnce) * 128);
  }

  /// Brings this thread's share of a unit's queries into the L2 cache, while the unit before is computed.
  __device__ void fetch_queries(const LatentUnit& unit) const {
    constexpr int kRowBytes = kLatentKey * static_cast<int>(sizeof(float)), kLine = 128;
    const char* first =
        static_cast<const char*>(p.q_THd) + unit.row_of(p, unit.queries.first_item) * kRowBytes;
    const int bytes = (unit.last_item + 1 - unit.queries.first_item) * kRowBytes;
    for (int at = static_cast<int>(threadIdx.x) * kLine; at < bytes; at += kCopierThreads * kLine)
      asm volatile("prefetch.global.L2 [%0];" ::"l"(first + at));
  }

  __device__ void copy_unit(const LatentUnit& unit, int& turn) {
    const char* const chunks = p.latents + threadIdx.x % 8 * 16;
    int positions[kKeysAThread];
    find_keys(positions, p, unit.queries.row, unit.first_tile, unit.keys);
    for (int tile = unit.first_tile; tile < unit.end_tile; ++tile, ++turn) {
      stages.wait_for_room(turn);
#pragma unroll
      for (int i = 0; i < kKeysAThread; ++i) {
        const bool zeros = positions[i] < 0;
        const char* from = chunks + static_cast<int64_t>(zeros ? 0 : positions[i]) * (kLatentKey * 2);
#pragma unroll
        for (int panel = 0; panel < kLatentPanels; ++panel)
          start_copy(place(turn, i, panel), from + panel * 128, zeros);
      }
      if constexpr (kForProducts) {
        find_keys(positions, p, unit.queries.row, tile + 1, unit.keys);
        close_copies();
        wait_for_copies<0>();
        publish_to_products();
        stages.publish(turn);
      } else {
        stages.publish_when_copied(turn);
        find_keys(positions, p, unit.queries.row, tile + 1, unit.keys);
      }
    }
  }

  /// A thread holds the codes of kAhead keys: as soon as those of one are written, those of the next that
  /// will take their registers are on their way.
  template <class Format>
  __device__ void widen_unit(const LatentUnit& unit, int& turn) {
    constexpr int kAhead = kForProducts ? 2 : kKeysAThread;
    Codes codes[kAhead];
    int now[kKeysAThread], next[kKeysAThread];
    find_keys(now, p, unit.queries.row, unit.first_tile, unit.keys);
    find_keys(next, p, unit.queries.row, unit.first_tile + 1, unit.keys);
#pragma unroll
    for (int i = 0; i < kAhead; ++i) codes[i].load(p, now[i]);
    for (int tile = unit.first_tile; tile < unit.end_tile; ++tile, ++turn) {
      stages.wait_for_room(turn);
#pragma unroll
      for (int i = 0; i < kKeysAThread; ++i) {
        Codes& key = codes[i % kAhead];
#pragma unroll
        for (int panel = 0; panel < kLatentPanels; ++panel)
          store_chunk(place(turn, i, panel),
                      widened<Format>(key.chunks[panel],
                                      panel < kLatentDim / kPanelColumns ? key.scales.x : key.scales.y));
        const int later = i + kAhead;
        key.load(p, later < kKeysAThread ? now[later % kKeysAThread] : next[later % kKeysAThread]);
      }
      if constexpr (kForProducts) publish_to_products();
      stages.publish(turn);
#pragma unroll
      for (int i = 0; i < kKeysAThread; ++i) now[i] = next[i];
      find_keys(next, p, unit.queries.row, tile + 2, unit.keys);
    }
  }

  /// This thread's chunks of a key's codes, and the key's scales; zeros past the last key.
  struct Codes {
    uint2 chunks[kLatentPanels];
    float2 scales;

    __device__ void load(const LatentProblem& p, int position) {
      constexpr int kBytes = kLatentKey + static_cast<int>(sizeof scales);
      const char* from = p.latents + static_cast<int64_t>(position) * kBytes;
#pragma unroll
      for (int panel = 0; panel < kLatentPanels; ++panel)
        chunks[panel] = load_now(from + panel * 64 + threadIdx.x % 8 * 8, position < 0);
      const uint2 both = load_now(from + kLatentKey, position < 0);
      scales = {__uint_as_float(both.x), __uint_as_float(both.y)};
    }
  };

  const LatentProblem& p;
  Turns& stages;
  unsigned first_place;
};

/// Queries rounded to float16, kRows of them in panels like a tile's; by kThreads threads, of which this
/// is number `thread`. Rows past the last repeat it.
template <int kRows, int kThreads>
__device__ void load_latent_queries(unsigned to, const LatentProblem& p, const LatentUnit& unit, int thread) {
  constexpr int kChunks = kLatentKey / 8;
  constexpr int kBatch = 9;  // loads under way, of two halves of a chunk
  static_assert(kRows * kChunks % (kThreads * kBatch) == 0);
  const auto* q_d = static_cast<const float*>(p.q_THd);
  for (int first = thread; first < kRows * kChunks; first += kThreads * kBatch) {
    float4 low[kBatch], high[kBatch];
#pragma unroll
    for (int i = 0; i < kBatch; ++i) {
      const int chunk = first + i * kThreads;
      const int item = min(unit.queries.first_item + chunk / kChunks, unit.last_item);
      const auto* from =
          reinterpret_cast<const float4*>(q_d + unit.row_of(p, item) * kLatentKey + chunk % kChunks * 8);
      low[i] = __ldg(from);
      high[i] = __ldg(from + 1);
    }
#pragma unroll
    for (int i = 0; i < kBatch; ++i) {
      const int chunk = first + i * kThreads;
      store_chunk(to + swizzled(kRows, chunk / kChunks, chunk % kChunks),
                  {half_pair(low[i].x, low[i].y), half_pair(low[i].z, low[i].w),
                   half_pair(high[i].x, high[i].y), half_pair(high[i].z, high[i].w)});
    }
  }
}

/// Threads that share the work on queries meet.
template <int kThreads>
__device__ void meet() {
  asm volatile("bar.sync 1, %0;" ::"n"(kThreads) : "memory");
}

}  // namespace penstock::cuda
