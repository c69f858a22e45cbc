#include <cmath>
#include <cstdint>

#include "kernels/cuda/common.cuh"
#include "kernels/cuda/overlap.cuh"
#include "kernels/cuda/routing.h"

namespace penstock::cuda {
namespace {

constexpr int kChoosers = 4;  // warps a block, each with a token of its own
constexpr int kSorters = 32;  // warps that sort
constexpr int kThreads = 256;

/// Order of floats as order of integers above kOut; NaN is the least of them.
constexpr uint32_t kOut = 0;  // taken, or out of question
__device__ uint32_t ordered(float x) {
  if (isnan(x)) return kOut + 1;
  const uint32_t bits = __float_as_uint(x);
  return (bits & 0x80000000U) != 0 ? ~bits : bits | 0x80000000U;
}

/// Takes the first of the greatest of n values in shared memory, one of which at least is not kOut yet, out
/// of question, and returns where it stood. Called by a warp.
__device__ int take_greatest(uint32_t* values, int n) {
  uint32_t best = kOut;
  int at = n;
  for (int i = static_cast<int>(threadIdx.x) % kWarp; i < n; i += kWarp)
    if (values[i] > best) best = values[at = i];
  const uint32_t greatest = __reduce_max_sync(kAllLanes, best);
  const unsigned first = __reduce_min_sync(kAllLanes, static_cast<unsigned>(best == greatest ? at : n));
  if (threadIdx.x % kWarp == 0) values[first] = kOut;
  __syncwarp();
  return static_cast<int>(first);
}

/// Softmax or sigmoids of a token's logits. Which lane adds what to what depends on E only.
__device__ void score(float* scores_E, const float* logits_E, int experts, bool sigmoid) {
  const auto lane = static_cast<int>(threadIdx.x % kWarp);
  if (sigmoid) {
    for (int e = lane; e < experts; e += kWarp) scores_E[e] = 1 / (1 + expf(-logits_E[e]));
    return;
  }
  float largest = -INFINITY;
  for (int e = lane; e < experts; e += kWarp) largest = fmaxf(largest, logits_E[e]);
  for (int step = kWarp / 2; step > 0; step /= 2)
    largest = fmaxf(largest, __shfl_xor_sync(kAllLanes, largest, step));
  float sum = 0;
  for (int e = lane; e < experts; e += kWarp) sum += scores_E[e] = expf(logits_E[e] - largest);
  sum = warp_sum(sum);
  for (int e = lane; e < experts; e += kWarp) scores_E[e] /= sum;
}

/// What an expert is chosen by.
__device__ float corrected(const float* scores_E, const float* correction_E, int e) {
  return correction_E == nullptr ? scores_E[e] : scores_E[e] + correction_E[e];
}

/// Puts experts outside the best groups out of question. `worth_G` is room for a value a group. Called by a
/// warp.
__device__ void drop_other_groups(uint32_t* choice_E, uint32_t* worth_G, int experts, const float* scores_E,
                                  const float* correction_E, const GateView& gate) {
  const auto lane = static_cast<int>(threadIdx.x % kWarp);
  const auto groups = static_cast<int>(gate.groups);
  const int size = experts / groups;
  for (int g = lane; g < groups; g += kWarp) {
    float first = -INFINITY;
    float second = -INFINITY;
    for (int e = g * size; e < (g + 1) * size; ++e) {
      const float x = corrected(scores_E, correction_E, e);
      second = fmaxf(second, fminf(first, x));
      first = fmaxf(first, x);
    }
    worth_G[g] = ordered(gate.two_best && size > 1 ? first + second : first);
  }
  __syncwarp();
  for (int64_t kept = 0; kept < gate.groups_kept; ++kept) take_greatest(worth_G, groups);
  for (int e = lane; e < experts; e += kWarp)
    if (worth_G[e / size] != kOut) choice_E[e] = kOut;
  __syncwarp();
}

/// A warp a token. Leaves the experts chosen in slot_TC, as numbers.
__global__ void __launch_bounds__(kChoosers* kWarp)
    choose_experts(RoutingView routing, const float* logits_TE, const float* correction_E, GateView gate) {
  extern __shared__ float memory[];
  let_next_start();
  wait_for_previous();
  const auto lane = static_cast<int>(threadIdx.x % kWarp);
  const auto warp = static_cast<int>(threadIdx.x / kWarp);
  const int64_t token = static_cast<int64_t>(blockIdx.x) * kChoosers + warp;
  if (token >= routing.tokens) return;
  const auto experts = static_cast<int>(routing.experts);
  float* scores_E = memory + warp * (2 * experts + static_cast<int>(gate.groups));
  auto* choice_E = reinterpret_cast<uint32_t*>(scores_E + experts);
  score(scores_E, logits_TE + token * experts, experts, gate.sigmoid);
  __syncwarp();
  for (int e = lane; e < experts; e += kWarp) choice_E[e] = ordered(corrected(scores_E, correction_E, e));
  __syncwarp();
  if (gate.groups > 1) drop_other_groups(choice_E, choice_E + experts, experts, scores_E, correction_E, gate);

  const auto chosen = static_cast<int>(routing.chosen);
  float* weights_C = routing.weights_TC + token * chosen;
  int32_t* experts_C = routing.slot_TC + token * chosen;
  float sum = 0;
  for (int c = 0; c < chosen; ++c) {
    const int e = take_greatest(choice_E, experts);
    sum += scores_E[e];
    if (lane == 0) experts_C[c] = e;
  }
  __syncwarp();
  for (int c = lane; c < chosen; c += kWarp) {
    const float weight = scores_E[experts_C[c]];
    weights_C[c] = (gate.normalise ? weight / (sum + 1e-20F) : weight) * gate.scale;
  }
}

/// Walks over a warp's run of pairs in order, counting them: `at(pair, n)` is told how many count_E had
/// counted of the same expert before. Called by a warp, whose count_E is.
template <class At>
__device__ void count_pairs(int* count_E, const int32_t* expert_S, int begin, int end, const At& at) {
  const unsigned lane = threadIdx.x % kWarp;
  for (int first = begin; first < end; first += kWarp) {
    const int pair = first + static_cast<int>(lane);
    const unsigned present = __ballot_sync(kAllLanes, pair < end);
    if (pair < end) {
      const int expert = expert_S[pair];
      const unsigned same = __match_any_sync(present, expert);
      const unsigned before = same & ((1U << lane) - 1);
      at(pair, count_E[expert] + __popc(before));
      __syncwarp(present);
      if (before == 0) count_E[expert] += __popc(same);
    }
    __syncwarp();
  }
}

/// One block sorts all pairs by counting. Each warp has a run of them, so that pairs of one expert stay in
/// order; no two threads ever add to the same count.
__global__ void __launch_bounds__(kSorters* kWarp) sort_pairs(RoutingView routing) {
  extern __shared__ int count_WE[];  // of each warp and expert; then where the warp's next pair goes
  __shared__ int shared[kSorters];
  const auto experts = static_cast<int>(routing.experts);
  const auto thread = static_cast<int>(threadIdx.x);
  const auto pairs = static_cast<int>(routing.tokens * routing.chosen);
  const int share = (pairs + kSorters - 1) / kSorters;
  const int begin = thread / kWarp * share;
  const int end = min(begin + share, pairs);
  int* const count_E = count_WE + thread / kWarp * experts;
  for (int i = thread; i < kSorters * experts; i += kSorters * kWarp) count_WE[i] = 0;
  __syncthreads();
  let_next_start();
  wait_for_previous();
  count_pairs(count_E, routing.slot_TC, begin, end, [](int, int) {});
  __syncthreads();

  int mine = 0;  // pairs of this thread's expert: kMostExperts is no more than there are threads
  if (thread < experts)
    for (int w = 0; w < kSorters; ++w) mine += count_WE[w * experts + thread];
  const int until = running_sum<kSorters * kWarp>(mine, shared);
  if (thread < experts) {
    int next = until - mine;
    routing.expert_start_E1[thread] = next;
    if (thread == experts - 1) routing.expert_start_E1[experts] = until;
    for (int w = 0; w < kSorters; ++w) {
      int& at = count_WE[w * experts + thread];
      next += at;
      at = next - at;
    }
  }
  __syncthreads();

  count_pairs(count_E, routing.slot_TC, begin, end, [&](int pair, int slot) {
    routing.slot_TC[pair] = slot;
    routing.token_S[slot] = pair / static_cast<int>(routing.chosen);
  });
}

/// x_TD += the sum of a token's pairs, in routing order.
__global__ void __launch_bounds__(kThreads)
    combine_row(float* x_TD, const float* y_SD, RoutingView routing, int64_t d) {
  const int64_t token = blockIdx.x;
  const int64_t i = static_cast<int64_t>(blockIdx.y) * kThreads + threadIdx.x;
  let_next_start();
  wait_for_previous();
  if (i >= d) return;
  float sum = 0;
  for (int64_t pair = token * routing.chosen; pair < (token + 1) * routing.chosen; ++pair)
    sum = fmaf(routing.weights_TC[pair], y_SD[routing.slot_TC[pair] * d + i], sum);
  x_TD[token * d + i] += sum;
}

}  // namespace

void route(cudaStream_t stream, const RoutingView& routing, TensorView logits_TE, const GateView& gate) {
  ensure(routing.experts <= kMostExperts, "a gate chooses among at most 1024 experts");
  const auto experts = static_cast<size_t>(routing.experts);
  const size_t to_choose = kChoosers * (2 * experts + static_cast<size_t>(gate.groups)) * sizeof(float);
  const size_t to_sort = kSorters * experts * sizeof(int);
  check(cudaFuncSetAttribute(sort_pairs, cudaFuncAttributeMaxDynamicSharedMemorySize,
                             static_cast<int>(to_sort)),
        "sort pairs: shared memory");
  if (routing.tokens > 0)
    launch_overlapped("choose experts", stream, choose_experts,
                      static_cast<unsigned>((routing.tokens + kChoosers - 1) / kChoosers), kChoosers * kWarp,
                      to_choose, routing, logits_TE.as<const float>(), gate.correction_E.as<const float>(),
                      gate);
  launch_overlapped("sort pairs", stream, sort_pairs, 1, kSorters * kWarp, to_sort, routing);
}

void combine_experts(cudaStream_t stream, TensorView x_TD, TensorView y_SD, const RoutingView& routing) {
  if (routing.tokens == 0) return;
  const int64_t d = x_TD.dim(1);
  const dim3 grid(static_cast<unsigned>(routing.tokens),
                  static_cast<unsigned>((d + kThreads - 1) / kThreads));
  launch_overlapped("combine experts", stream, combine_row, grid, kThreads, 0, x_TD.as<float>(),
                    y_SD.as<const float>(), routing, d);
}

}  // namespace penstock::cuda
