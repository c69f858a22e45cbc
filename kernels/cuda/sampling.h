// One token a row of logits, drawn on the device: the semantics of kernels/sampling.h.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

#include "kernels/ops.h"

namespace penstock::cuda {

/// What the kernel is told of a row. `uniform` is uniform_for(params): the host runs the counter RNG, one
/// number a row.
struct RowToDraw {
  double uniform;
  float temperature;  // 0: greedy
  int32_t top_k;      // 0: off
  float top_p;
  float min_p;       // at most 1
  int32_t logprobs;  // -1: none, not even the token's own
};

struct DrawnToken {
  int32_t token;
  float logprob;
};

/// drawn_R[r] is the token of row r; top_RL[r * most_top + i] its i-th most likely token where logprobs > i.
/// Asynchronous; all pointers are device memory.
void sample_rows(cudaStream_t stream, TensorView logits_RV, const RowToDraw* rows_R, DrawnToken* drawn_R,
                 TokenLogprob* top_RL, int64_t most_top);

}  // namespace penstock::cuda
