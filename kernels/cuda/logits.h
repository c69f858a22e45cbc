// Rows of logits before and beside sampling, on the device: what a row's rules make of them, and the
// log-probabilities of given tokens. The semantics of kernels/sampling.h.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

#include "kernels/ops.h"

namespace penstock::cuda {

/// Where one row's rules lie in the arrays that all rows of a call share.
struct RowRules {
  int32_t row;  // of the logits that are read
  int32_t allowed_begin, allowed_end;
  int32_t banned_begin, banned_end;
  int32_t edits_begin, edits_end;
};

/// to_AV[a] = logits_RV[rules_A[a].row] as its rules leave it. Asynchronous; all pointers are device memory.
void adjust_rows(cudaStream_t stream, float* to_AV, TensorView logits_RV, const RowRules* rules_A,
                 int64_t count, const int32_t* tokens, const LogitEdit* edits);

/// What is asked of one row.
struct RowToScore {
  int32_t row;  // of the logits
  int32_t token;
  int32_t logprobs;  // alternatives, from 0
};

struct ScoredToken {
  float logprob;
  int32_t rank;
};

/// scored_S[s] is rows_S[s].token's score; top_SL[s * most_top + i] the i-th most likely token where logprobs
/// > i. Asynchronous; all pointers are device memory.
void score_rows(cudaStream_t stream, TensorView logits_RV, const RowToScore* rows_S, int64_t count,
                ScoredToken* scored_S, TokenLogprob* top_SL, int64_t most_top);

}  // namespace penstock::cuda
