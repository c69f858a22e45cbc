// The tensor-core instructions that Ampere and later have, one function each, and asynchronous copies into
// shared memory. Fragments are as in the PTX manual, "Matrix fragments for mma.m16n8k16".
#pragma once

#include "kernels/cuda/common.cuh"

namespace penstock::cuda {

__device__ inline unsigned shared_address(const void* p) {
  return static_cast<unsigned>(__cvta_generic_to_shared(p));
}

__device__ inline void load_matrices(uint32_t (&b)[4], unsigned shared_row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(b[0]), "=r"(b[1]), "=r"(b[2]), "=r"(b[3])
               : "r"(shared_row));
}
__device__ inline void load_matrices(uint32_t (&b)[4], const void* row) {
  load_matrices(b, shared_address(row));
}

__device__ inline void load_matrices_transposed(uint32_t (&b)[4], unsigned shared_row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(b[0]), "=r"(b[1]), "=r"(b[2]), "=r"(b[3])
               : "r"(shared_row));
}
__device__ inline void load_matrices_transposed(uint32_t (&b)[4], const void* row) {
  load_matrices_transposed(b, shared_address(row));
}

__device__ inline void multiply_add_bf16(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
      "{%0, %1, %2, %3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}
__device__ inline void multiply_add_f16(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
      "{%0, %1, %2, %3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

/// Starts copying 16 bytes from global to shared memory, or writing 16 zeros without reading `from`.
__device__ inline void start_copy(unsigned shared_to, const void* from, bool zeros) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_to), "l"(from),
               "r"(zeros ? 0 : 16));
}
__device__ inline void start_copy(void* shared_to, const void* from, bool zeros) {
  start_copy(shared_address(shared_to), from, zeros);
}
/// The same for 4 bytes.
__device__ inline void start_copy_of_4(unsigned shared_to, const void* from, bool zeros) {
  asm volatile("cp.async.ca.shared.global [%0], [%1], 4, %2;" ::"r"(shared_to), "l"(from),
               "r"(zeros ? 0 : 4));
}
/// What was started since the last call can be waited for as one.
__device__ inline void close_copies() {
  asm volatile("cp.async.commit_group;");
}
/// Waits until at most kOpen groups are still under way.
template <int kOpen>
__device__ void wait_for_copies() {
  asm volatile("cp.async.wait_group %0;" ::"n"(kOpen) : "memory");
}

}  // namespace penstock::cuda
