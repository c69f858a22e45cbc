// The matrix product of the gated MLP with SwiGLU in its epilogue, on Hopper: what gate and up are never
// leaves the multiprocessor. Without it they are written and read again as float32, about half of all bytes
// that a dense model moves besides weights.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

namespace penstock::cuda {

/// Whether the kernel serves an intermediate size F and an input size K.
bool gated_hopper_serves(int64_t f, int64_t k);

/// y_MF = silu(gate) * up, gate and up being the first and the last F columns of x_MK w_2FK^T; all bfloat16,
/// gate and up float32. K is walked in order, 16 at a time, in one float32 accumulator: the bits are those of
/// such a product followed by swiglu(). For a device of compute capability 9.0; asynchronous.
void gated_product(cudaStream_t stream, void* y_MF, const void* x_MK, const void* w_2FK, int64_t m, int64_t f,
                   int64_t k, int multiprocessors);

}  // namespace penstock::cuda
