// The product of a weight with a few rows, bound by reading the weight once. cuBLASLt without split-K gives
// such a product too few blocks to fill the device when N is small; here every 16 rows of the weight have a
// warp.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

#include "runtime/device/tensor.h"

namespace penstock::cuda {

/// Whether the kernel serves m rows times an n x k weight of this dtype.
bool skinny_serves(int64_t m, int64_t n, int64_t k, DType weight);

/// y_MN (f32 or bf16) = x_MK w_NK^T, or += with `add`. K is walked in order, 16 at a time, in one float32
/// accumulator: the order of the tensor-core kernels that do not split K. Asynchronous.
void skinny_product(cudaStream_t stream, void* y_MN, DType y_dtype, const void* x_MK, const void* w_NK,
                    int64_t m, int64_t n, int64_t k, bool add);

/// The same on Hopper. It may start while the kernel before it in the stream still runs, and reads the weight
/// then: what writes a weight must have ended when that kernel starts.
void skinny_product_on_hopper(cudaStream_t stream, void* y_MN, DType y_dtype, const void* x_MK,
                              const void* w_NK, int64_t m, int64_t n, int64_t k, bool add);

/// Likewise y_MF = silu(gate) * up as in gated_hopper.h; all bfloat16, the weight such that
/// skinny_serves(m, 2 F, k).
void skinny_gated_product(cudaStream_t stream, void* y_MF, const void* x_MK, const void* w_2FK, int64_t m,
                          int64_t f, int64_t k);

}  // namespace penstock::cuda
