// Queries and keys are normalised and rotated, keys and values go to the paged cache: Ops::rope_and_store.
#pragma once

#include <cuda_runtime_api.h>

#include "kernels/ops.h"

namespace penstock::cuda {

/// `rounding`, device memory, gains what a cache of one byte a value takes from one position in eight.
void rope_and_store(cudaStream_t stream, TensorView q_THd, const KvCacheView& cache, TensorView qkv_TN,
                    const RotaryView& rotary, const BatchView& batch, int64_t heads, CacheRounding* rounding);

}  // namespace penstock::cuda
