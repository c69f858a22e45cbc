// What products of FP8 need beside hopper.cuh: wgmma of E4M3 codes for every number of tokens, and copies
// in one piece that a barrier counts. PTX manual, "cp.async.bulk".
#pragma once

#include "kernels/cuda/hopper.cuh"

namespace penstock::cuda {

#define PENSTOCK_PLACES_4 "%0, %1, %2, %3"
#define PENSTOCK_PLACES_8 PENSTOCK_PLACES_4 ", %4, %5, %6, %7"
#define PENSTOCK_PLACES_16 PENSTOCK_PLACES_8 ", %8, %9, %10, %11, %12, %13, %14, %15"
#define PENSTOCK_PLACES_32 \
  PENSTOCK_PLACES_16 ", %16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31"
#define PENSTOCK_PLACES_64                                                                                 \
  PENSTOCK_PLACES_32                                                                                       \
  ", %32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, %48, %49, %50, %51, " \
  "%52,"                                                                                                   \
  " %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63"
#define PENSTOCK_REGISTERS_4(d, i) "+f"(d[i][0]), "+f"(d[i][1]), "+f"(d[i][2]), "+f"(d[i][3])
#define PENSTOCK_REGISTERS_8(d, i) PENSTOCK_REGISTERS_4(d, i), PENSTOCK_REGISTERS_4(d, i + 1)
#define PENSTOCK_REGISTERS_16(d, i) PENSTOCK_REGISTERS_8(d, i), PENSTOCK_REGISTERS_8(d, i + 2)
#define PENSTOCK_REGISTERS_32(d, i) PENSTOCK_REGISTERS_16(d, i), PENSTOCK_REGISTERS_16(d, i + 4)
#define PENSTOCK_REGISTERS_64(d, i) PENSTOCK_REGISTERS_32(d, i), PENSTOCK_REGISTERS_32(d, i + 8)

/// d [64 x tokens] = w x^T or, with `add`, += : both operands 32 columns of codes, of 64 rows and of
/// `tokens`.
#define PENSTOCK_MULTIPLY_E4M3(tokens, registers, place_of_w, place_of_x, place_of_add)                 \
  __device__ inline void multiply_e4m3(float(&d)[tokens / 8][4], uint64_t w, uint64_t x, bool add) {    \
    asm volatile("{ .reg .pred p; setp.ne.b32 p, %" #place_of_add                                       \
                 ", 0;\n"                                                                               \
                 "wgmma.mma_async.sync.aligned.m64n" #tokens                                            \
                 "k32.f32.e4m3.e4m3 {" PENSTOCK_PLACES_##registers "}, %" #place_of_w ", %" #place_of_x \
                                                                   ", p, 1, 1; }"                       \
                 : PENSTOCK_REGISTERS_##registers(d, 0)                                                 \
                 : "l"(w), "l"(x), "r"(static_cast<int>(add)));                                         \
  }
PENSTOCK_MULTIPLY_E4M3(8, 4, 4, 5, 6)
PENSTOCK_MULTIPLY_E4M3(16, 8, 8, 9, 10)
PENSTOCK_MULTIPLY_E4M3(32, 16, 16, 17, 18)
PENSTOCK_MULTIPLY_E4M3(64, 32, 32, 33, 34)
PENSTOCK_MULTIPLY_E4M3(128, 64, 64, 65, 66)
#undef PENSTOCK_MULTIPLY_E4M3

/// Waits until at most `open` groups of products, a constant up to 3, are still under way; d, written by one
/// that ended, may be read then.
template <int kColumns>
__device__ void wait_for_codes(float (&d)[kColumns][4], int open) {
  if (open == 0)
    asm volatile("wgmma.wait_group.sync.aligned 0;" ::: "memory");
  else if (open == 1)
    asm volatile("wgmma.wait_group.sync.aligned 1;" ::: "memory");
  else if (open == 2)
    asm volatile("wgmma.wait_group.sync.aligned 2;" ::: "memory");
  else
    asm volatile("wgmma.wait_group.sync.aligned 3;" ::: "memory");
#pragma unroll
  for (int i = 0; i < kColumns; ++i) asm volatile("" : PENSTOCK_REGISTERS_4(d, i)::"memory");
}
#undef PENSTOCK_REGISTERS_64
#undef PENSTOCK_REGISTERS_32
#undef PENSTOCK_REGISTERS_16
#undef PENSTOCK_REGISTERS_8
#undef PENSTOCK_REGISTERS_4
#undef PENSTOCK_PLACES_64
#undef PENSTOCK_PLACES_32
#undef PENSTOCK_PLACES_16
#undef PENSTOCK_PLACES_8
#undef PENSTOCK_PLACES_4

/// Starts copying from global to shared memory; `barrier` counts the bytes. Both addresses and `bytes` are
/// multiples of 16.
__device__ inline void start_bulk_copy(unsigned shared_to, const void* from, int bytes, Barrier& barrier) {
  asm volatile(
      "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(
          shared_to),
      "l"(from), "r"(bytes), "r"(shared_address(&barrier.state))
      : "memory");
}

/// True in one thread of a warp, all of which call it: the compiler knows that there is no other.
__device__ inline bool one_of_warp() {
  uint32_t chosen = 0;
  asm volatile("{ .reg .pred p; elect.sync _|p, 0xFFFFFFFF; selp.u32 %0, 1, 0, p; }" : "=r"(chosen));
  return chosen != 0;
}

}  // namespace penstock::cuda
