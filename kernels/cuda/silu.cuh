// SwiGLU of one value, the same bits wherever it is computed.
#pragma once

#include "kernels/cuda/common.cuh"

namespace penstock::cuda {

__device__ inline float silu_times(float gate, float up) {
  return gate / (1.0F + expf(-gate)) * up;
}

/// Whether silu_times_near serves.
__device__ inline bool is_near(float gate) {
  return (fabsf(gate) >= 0x1p-100F) & (fabsf(gate) <= 80);
}
/// silu_times where is_near(gate): a division without a branch, so that many overlap. These are the steps by
/// which the compiler divides where nothing can overflow or underflow: a reciprocal, one of Newton's steps,
/// and the quotient corrected by its remainder, which rounds it correctly.
__device__ inline float silu_times_near(float gate, float up) {
  const float divisor = 1.0F + expf(-gate);
  float inverse;
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(inverse) : "f"(divisor));
  inverse = fmaf(inverse, fmaf(-divisor, inverse, 1.0F), inverse);
  const float quotient = gate * inverse;
  return fmaf(inverse, fmaf(-divisor, quotient, gate), quotient) * up;
}

}  // namespace penstock::cuda
