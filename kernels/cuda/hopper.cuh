// Instructions that only sm_90a has, one function each: products by a warpgroup (four warps) whose operands
// lie in shared memory, barriers in shared memory, and registers moved between warpgroups. PTX manual,
// "Asynchronous Warpgroup Level Matrix Instructions" and "mbarrier". Copies of whole tiles are in
// tile_copy.cuh.
//
// Operands in shared memory are panels of 64 columns (128 bytes a row, rows one after another), the
// 16-byte chunks of row r exchanged by r % 8 ("128-byte swizzle"); a panel begins at a multiple of 1024.
#pragma once

#include "kernels/cuda/tensor_core.cuh"

namespace penstock::cuda {

constexpr int kPanelColumns = 64;  // of 16-bit values
constexpr int kWarpgroup = 128;    // threads

/// Byte offset, in an operand of `rows` rows, of the 16-byte chunk that holds columns 8 chunk ... 8 chunk
/// + 7.
__device__ inline unsigned swizzled(int rows, int row, int chunk) {
  return static_cast<unsigned>((chunk / 8 * rows + row) * 128 + ((chunk % 8) ^ (row % 8)) * 16);
}

/// What the instructions take for an operand. `panel` is the distance between panels in bytes; it matters
/// only where the columns of the operand are its M or N (V, read transposed).
__device__ inline uint64_t describe(unsigned address, int panel) {
  constexpr uint64_t kSwizzle128 = uint64_t{1} << 62;
  constexpr uint64_t kEightRows = uint64_t{1024 / 16} << 32;
  return kSwizzle128 | kEightRows | static_cast<uint64_t>(panel / 16) << 16 |
         static_cast<uint64_t>((address & 0x3FFFF) / 16);
}

#define PENSTOCK_PLACES_32                                                                                \
  "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, %19, %20, %21, " \
  "%22, %23, %24, %25, %26, %27, %28, %29, %30, %31}"
#define PENSTOCK_PLACES_64                                                                                \
  "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, %19, %20, %21, " \
  "%22, %23, %24, %25, %26, %27, %28, %29, %30, %31, %32, %33, %34, %35, %36, %37, %38, %39, %40, %41, "  \
  "%42, %43, %44, %45, %46, %47, %48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, "  \
  "%62, %63}"
#define PENSTOCK_PLACES_128                                                                          \
  "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, %19, %20, " \
  "%21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, %32, %33, %34, %35, %36, %37, %38, %39, "  \
  "%40, %41, %42, %43, %44, %45, %46, %47, %48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, "  \
  "%59, %60, %61, %62, %63, %64, %65, %66, %67, %68, %69, %70, %71, %72, %73, %74, %75, %76, %77, "  \
  "%78, %79, %80, %81, %82, %83, %84, %85, %86, %87, %88, %89, %90, %91, %92, %93, %94, %95, %96, "  \
  "%97, %98, %99, %100, %101, %102, %103, %104, %105, %106, %107, %108, %109, %110, %111, %112, "    \
  "%113, %114, %115, %116, %117, %118, %119, %120, %121, %122, %123, %124, %125, %126, %127}"
#define PENSTOCK_FOUR(d, n) "+f"(d[n][0]), "+f"(d[n][1]), "+f"(d[n][2]), "+f"(d[n][3])
#define PENSTOCK_REGISTERS_32(d)                                                                           \
  PENSTOCK_FOUR(d, 0), PENSTOCK_FOUR(d, 1), PENSTOCK_FOUR(d, 2), PENSTOCK_FOUR(d, 3), PENSTOCK_FOUR(d, 4), \
      PENSTOCK_FOUR(d, 5), PENSTOCK_FOUR(d, 6), PENSTOCK_FOUR(d, 7)
#define PENSTOCK_REGISTERS_64(d)                                                              \
  PENSTOCK_REGISTERS_32(d), PENSTOCK_FOUR(d, 8), PENSTOCK_FOUR(d, 9), PENSTOCK_FOUR(d, 10),   \
      PENSTOCK_FOUR(d, 11), PENSTOCK_FOUR(d, 12), PENSTOCK_FOUR(d, 13), PENSTOCK_FOUR(d, 14), \
      PENSTOCK_FOUR(d, 15)
#define PENSTOCK_REGISTERS_128(d)                                                             \
  PENSTOCK_REGISTERS_64(d), PENSTOCK_FOUR(d, 16), PENSTOCK_FOUR(d, 17), PENSTOCK_FOUR(d, 18), \
      PENSTOCK_FOUR(d, 19), PENSTOCK_FOUR(d, 20), PENSTOCK_FOUR(d, 21), PENSTOCK_FOUR(d, 22), \
      PENSTOCK_FOUR(d, 23), PENSTOCK_FOUR(d, 24), PENSTOCK_FOUR(d, 25), PENSTOCK_FOUR(d, 26), \
      PENSTOCK_FOUR(d, 27), PENSTOCK_FOUR(d, 28), PENSTOCK_FOUR(d, 29), PENSTOCK_FOUR(d, 30), \
      PENSTOCK_FOUR(d, 31)

/// d [64 x 64] = a b^T or, with `add`, += : a, 64 x 16 float16, in registers, b 64 rows of 16 columns.
__device__ inline void multiply_f16(float (&d)[8][4], const uint32_t (&a)[4], uint64_t b, bool add) {
  asm volatile(
      "{ .reg .pred p; setp.ne.b32 p, %37, 0;\n"
      "wgmma.mma_async.sync.aligned.m64n64k16.f32.f16.f16 " PENSTOCK_PLACES_32
      ", {%32, %33, %34, %35}, %36, p, 1, 1, 0; }"
      : PENSTOCK_REGISTERS_32(d)
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(static_cast<int>(add)));
}
/// The same with a in shared memory, 64 rows of 16 columns.
__device__ inline void multiply_f16(float (&d)[8][4], uint64_t a, uint64_t b, bool add) {
  asm volatile(
      "{ .reg .pred p; setp.ne.b32 p, %34, 0;\n"
      "wgmma.mma_async.sync.aligned.m64n64k16.f32.f16.f16 " PENSTOCK_PLACES_32 ", %32, %33, p, 1, 1, 0, 0; }"
      : PENSTOCK_REGISTERS_32(d)
      : "l"(a), "l"(b), "r"(static_cast<int>(add)));
}
/// d [64 x 128] = a b or += : a, 64 x 16 float16, in registers, b 16 rows of 128 columns.
__device__ inline void multiply_f16(float (&d)[16][4], const uint32_t (&a)[4], uint64_t b, bool add) {
  asm volatile(
      "{ .reg .pred p; setp.ne.b32 p, %69, 0;\n"
      "wgmma.mma_async.sync.aligned.m64n128k16.f32.f16.f16 " PENSTOCK_PLACES_64
      ", {%64, %65, %66, %67}, %68, p, 1, 1, 1; }"
      : PENSTOCK_REGISTERS_64(d)
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(static_cast<int>(add)));
}

/// d [64 x n] = a b or += : a, 64 x 16 bfloat16, in registers, b 16 rows of n columns.
__device__ inline void multiply_bf16(float (&d)[8][4], const uint32_t (&a)[4], uint64_t b, bool add) {
  asm volatile(
      "{ .reg .pred p; setp.ne.b32 p, %37, 0;\n"
      "wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 " PENSTOCK_PLACES_32
      ", {%32, %33, %34, %35}, %36, p, 1, 1, 1; }"
      : PENSTOCK_REGISTERS_32(d)
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(static_cast<int>(add)));
}
__device__ inline void multiply_bf16(float (&d)[16][4], const uint32_t (&a)[4], uint64_t b, bool add) {
  asm volatile(
      "{ .reg .pred p; setp.ne.b32 p, %69, 0;\n"
      "wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 " PENSTOCK_PLACES_64
      ", {%64, %65, %66, %67}, %68, p, 1, 1, 1; }"
      : PENSTOCK_REGISTERS_64(d)
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(static_cast<int>(add)));
}

/// d [64 x 64], [64 x 128] or [64 x 256] = a b^T or += : both bfloat16 in shared memory, a 64 rows and b as
/// many as d has columns, of 16 columns.
__device__ inline void multiply_bf16(float (&d)[8][4], uint64_t a, uint64_t b, bool add) {
  asm volatile(
      "{ .reg .pred p; setp.ne.b32 p, %34, 0;\n"
      "wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 " PENSTOCK_PLACES_32
      ", %32, %33, p, 1, 1, 0, 0; }"
      : PENSTOCK_REGISTERS_32(d)
      : "l"(a), "l"(b), "r"(static_cast<int>(add)));
}
__device__ inline void multiply_bf16(float (&d)[16][4], uint64_t a, uint64_t b, bool add) {
  asm volatile(
      "{ .reg .pred p; setp.ne.b32 p, %66, 0;\n"
      "wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 " PENSTOCK_PLACES_64
      ", %64, %65, p, 1, 1, 0, 0; }"
      : PENSTOCK_REGISTERS_64(d)
      : "l"(a), "l"(b), "r"(static_cast<int>(add)));
}
__device__ inline void multiply_bf16(float (&d)[32][4], uint64_t a, uint64_t b, bool add) {
  asm volatile(
      "{ .reg .pred p; setp.ne.b32 p, %130, 0;\n"
      "wgmma.mma_async.sync.aligned.m64n256k16.f32.bf16.bf16 " PENSTOCK_PLACES_128
      ", %128, %129, p, 1, 1, 0, 0; }"
      : PENSTOCK_REGISTERS_128(d)
      : "l"(a), "l"(b), "r"(static_cast<int>(add)));
}

/// Registers that this warpgroup wrote may be read by its products from here on.
__device__ inline void begin_products() {
  asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
}
/// The products asked for since the last call can be waited for as one.
__device__ inline void close_products() {
  asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
}
/// Waits until at most kOpen groups are still under way; d, written by one that ended, may be read then.
/// Waits that differ in kPlace are not merged by the compiler.
template <int kOpen, int kPlace = 0>
__device__ void wait_for_products(float (&d)[8][4]) {
  asm volatile("wgmma.wait_group.sync.aligned %32; // %33"
               : PENSTOCK_REGISTERS_32(d)
               : "n"(kOpen), "n"(kPlace)
               : "memory");
}
template <int kOpen, int kPlace = 0>
__device__ void wait_for_products(float (&d)[16][4]) {
  asm volatile("wgmma.wait_group.sync.aligned %64; // %65"
               : PENSTOCK_REGISTERS_64(d)
               : "n"(kOpen), "n"(kPlace)
               : "memory");
}
template <int kOpen>
__device__ void wait_for_products(float (&d)[32][4]) {
  asm volatile("wgmma.wait_group.sync.aligned %128;" : PENSTOCK_REGISTERS_128(d) : "n"(kOpen) : "memory");
}
/// The same where nothing is read yet but the operands may be overwritten.
template <int kOpen>
__device__ void wait_for_products() {
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(kOpen) : "memory");
}
#undef PENSTOCK_REGISTERS_128
#undef PENSTOCK_PLACES_128
#undef PENSTOCK_REGISTERS_64
#undef PENSTOCK_REGISTERS_32
#undef PENSTOCK_FOUR
#undef PENSTOCK_PLACES_64
#undef PENSTOCK_PLACES_32

/// What this thread wrote to shared memory, copies that it has waited for included, may be read by products
/// once a barrier has been passed.
__device__ inline void publish_to_products() {
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}

/// A barrier in shared memory that is passed when `arrivals` threads have arrived, again and again.
struct Barrier {
  uint64_t state;

  __device__ void start(int arrivals) {
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(shared_address(&state)), "r"(arrivals)
                 : "memory");
  }
  __device__ void arrive() {
    asm volatile("mbarrier.arrive.release.cta.shared::cta.b64 _, [%0];" ::"r"(shared_address(&state))
                 : "memory");
  }
  /// Arrives at the barrier of the same place in another block of the cluster, or in this one. It orders no
  /// writes between blocks (that would take a fence of the whole device), but products that have been waited
  /// for are through with their operands.
  __device__ void arrive_in(int block) {
    asm volatile(
        "{ .reg .b32 there;\n"
        "mapa.shared::cluster.u32 there, %0, %1;\n"
        "mbarrier.arrive.shared::cluster.b64 _, [there]; }" ::"r"(shared_address(&state)),
        "r"(block)
        : "memory");
  }
  /// Arrives, and has the barrier wait for this many bytes of tile copies too.
  __device__ void arrive_and_expect(int bytes) {
    asm volatile(
        "mbarrier.arrive.expect_tx.release.cta.shared::cta.b64 _, [%0], %1;" ::"r"(shared_address(&state)),
        "r"(bytes)
        : "memory");
  }
  /// Waits until the barrier has been passed round + 1 times.
  __device__ void wait_for(int round) {
    asm volatile(
        "{ .reg .pred passed;\n"
        "again:\n"
        "mbarrier.try_wait.parity.acquire.cta.shared::cta.b64 passed, [%0], %1;\n"
        "@!passed bra again; }" ::"r"(shared_address(&state)),
        "r"(round & 1)
        : "memory");
  }
  /// The same where threads of other blocks arrive.
  __device__ void wait_for_cluster(int round) {
    asm volatile(
        "{ .reg .pred passed;\n"
        "again:\n"
        "mbarrier.try_wait.parity.acquire.cluster.shared::cta.b64 passed, [%0], %1;\n"
        "@!passed bra again; }" ::"r"(shared_address(&state)),
        "r"(round & 1)
        : "memory");
  }
};

/// The barriers started by one thread may be used by all once the block has synchronised.
__device__ inline void publish_barriers() {
  asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
}

template <int kRegisters>
__device__ void give_up_registers() {
  asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(kRegisters));
}
template <int kRegisters>
__device__ void take_registers() {
  asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(kRegisters));
}

}  // namespace penstock::cuda
