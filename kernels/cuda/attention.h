// Attention over the paged cache. Two implementations of Ops::attention: tensor cores for bfloat16 heads of
// the usual sizes, and plain arithmetic for everything else. A row's bits do not depend on which tokens share
// the call, nor on whether its query came as prefill or as decode (attention.cu says why).
#pragma once

#include <cuda_runtime_api.h>

#include "kernels/ops.h"

namespace penstock::cuda {

struct AttentionShape {
  int64_t heads;     // H
  int64_t kv_heads;  // G
  int64_t dim;       // d
};

/// Memory for the parts of split rows; how much there is decides speed, not bits.
struct Workspace {
  void* data = nullptr;
  size_t bytes = 0;
};

/// What of a device decides which kernels run there.
struct Gpu {
  int multiprocessors = 0;
  bool is_hopper = false;  // compute capability 9.0
};

bool tensor_cores_serve(const AttentionShape& shape, DType query, DType out, DType cache);
void attention_tensor_cores(cudaStream_t stream, TensorView out_THd, TensorView q_THd,
                            const KvCacheView& cache, const BatchView& batch, const AttentionShape& shape,
                            float scale, Workspace workspace, const Gpu& gpu);
void attention_plain(cudaStream_t stream, TensorView out_THd, TensorView q_THd, const KvCacheView& cache,
                     const BatchView& batch, const AttentionShape& shape, float scale);

}  // namespace penstock::cuda
