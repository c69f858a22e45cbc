// Queries and keys are normalised and rotated, keys and values go to the paged cache: Ops::rope_and_store.
#pragma once

#include <cuda_runtime_api.h>

#include "kernels/ops.h"

namespace penstock::cuda {

/// Inside a block of this back end's cache: [K or V][G][position][d]; what tensor cores load as tiles of
/// positions.
void rope_and_store(cudaStream_t stream, TensorView q_THd, const KvCacheView& cache, TensorView qkv_TN,
                    const RotaryView& rotary, const BatchView& batch, int64_t heads);

}  // namespace penstock::cuda
