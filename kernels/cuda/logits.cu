// One block a row. Sums are taken as in sampling.cu: each thread its own tokens in order, then the block's
// fixed tree, so that a token has the same log-probability whether it was drawn or given.
#include "kernels/cuda/logit_order.cuh"
#include "kernels/cuda/logits.h"

namespace penstock::cuda {
namespace {

constexpr int kThreads = 1024;
constexpr int kWarps = kThreads / kWarp;

__global__ void __launch_bounds__(kThreads)
    adjust_row(float* to_AV, const float* logits_RV, int size, const RowRules* rules_A, const int32_t* tokens,
               const LogitEdit* edits) {
  const RowRules rules = rules_A[blockIdx.x];
  const float* from_V = logits_RV + static_cast<int64_t>(rules.row) * size;
  float* to_V = to_AV + static_cast<int64_t>(blockIdx.x) * size;
  const int thread = static_cast<int>(threadIdx.x);
  const bool all = rules.allowed_begin == rules.allowed_end;
  for (int id = thread; id < size; id += kThreads) to_V[id] = all ? from_V[id] : kNothing;
  __syncthreads();
  for (int i = rules.allowed_begin + thread; i < rules.allowed_end; i += kThreads)
    to_V[tokens[i]] = from_V[tokens[i]];
  __syncthreads();
  for (int i = rules.banned_begin + thread; i < rules.banned_end; i += kThreads) to_V[tokens[i]] = kNothing;
  __syncthreads();
  for (int i = rules.edits_begin + thread; i < rules.edits_end; i += kThreads) {
    const LogitEdit edit = edits[i];
    float& x = to_V[edit.token];
    const float biased = __fadd_rn(x, edit.add);
    const float scaled = biased > 0 ? __fdiv_rn(biased, edit.repeat) : __fmul_rn(biased, edit.repeat);
    x = __fsub_rn(scaled, edit.less);
  }
}

/// The largest of one key a thread, in every thread.
__device__ uint64_t block_largest(uint64_t key, uint64_t* shared) {
  for (int step = kWarp / 2; step > 0; step /= 2) {
    const uint64_t other = __shfl_xor_sync(kAllLanes, static_cast<unsigned long long>(key), step);
    key = max(key, other);
  }
  if (threadIdx.x % kWarp == 0) shared[threadIdx.x / kWarp] = key;
  __syncthreads();
  for (int w = 0; w < kWarps; ++w) key = max(key, shared[w]);
  __syncthreads();
  return key;
}

__global__ void __launch_bounds__(kThreads)
    score_row(const float* logits_RV, int size, const RowToScore* rows_S, ScoredToken* scored_S,
              TokenLogprob* top_SL, int64_t most_top) {
  __shared__ uint64_t keys[kWarps];
  __shared__ double sums[kWarps];
  __shared__ int counts[kWarps];
  const RowToScore asked = rows_S[blockIdx.x];
  const float* logits_V = logits_RV + static_cast<int64_t>(asked.row) * size;
  const int thread = static_cast<int>(threadIdx.x);
  const auto best_below = [&](uint64_t limit) {
    uint64_t best = 0;
    for (int id = thread; id < size; id += kThreads) {
      const uint64_t key = rank_key(clean(logits_V[id]), id);
      if (key < limit && key > best) best = key;
    }
    return block_largest(best, keys);
  };
  uint64_t key = best_below(~uint64_t{0});
  const float largest = clean(logits_V[id_of(key)]);
  const float given = clean(logits_V[asked.token]);
  double own = 0;
  int as_likely = 0;
  for (int id = thread; id < size; id += kThreads) {
    const float logit = clean(logits_V[id]);
    own += exp(static_cast<double>(logit) - static_cast<double>(largest));
    as_likely += logit >= given ? 1 : 0;
  }
  const double log_sum = log(block_sum<kThreads>(own, sums));
  const int rank = block_sum<kThreads>(as_likely, counts);
  const auto logprob = [&](float logit) {
    return static_cast<float>(static_cast<double>(logit) - static_cast<double>(largest) - log_sum);
  };
  for (int i = 0; i < min(asked.logprobs, size); ++i) {
    if (i > 0) key = best_below(key);
    if (thread == 0)
      top_SL[static_cast<int64_t>(blockIdx.x) * most_top + i] = {id_of(key),
                                                                 logprob(clean(logits_V[id_of(key)]))};
  }
  if (thread == 0) scored_S[blockIdx.x] = {logprob(given), rank};
}

}  // namespace

void adjust_rows(cudaStream_t stream, float* to_AV, TensorView logits_RV, const RowRules* rules_A,
                 int64_t count, const int32_t* tokens, const LogitEdit* edits) {
  adjust_row<<<static_cast<unsigned>(count), kThreads, 0, stream>>>(
      to_AV, logits_RV.as<const float>(), static_cast<int>(logits_RV.dim(1)), rules_A, tokens, edits);
  check_launch("adjust_rows");
}

void score_rows(cudaStream_t stream, TensorView logits_RV, const RowToScore* rows_S, int64_t count,
                ScoredToken* scored_S, TokenLogprob* top_SL, int64_t most_top) {
  score_row<<<static_cast<unsigned>(count), kThreads, 0, stream>>>(
      logits_RV.as<const float>(), static_cast<int>(logits_RV.dim(1)), rows_S, scored_S, top_SL, most_top);
  check_launch("score_rows");
}

}  // namespace penstock::cuda
