// One block a row. Where the reference (kernels/cpu/reference_sample.cpp) sorts, this searches: the bits of
// the logit at which a filter cuts are found one by one, each by a count or a sum over the row. Weights are
// summed as integers in units of 2^-44 of the largest, so that no sum depends on its order; tokens lighter
// than that are never drawn.
#include "kernels/cuda/logit_order.cuh"
#include "kernels/cuda/sampling.h"

namespace penstock::cuda {
namespace {

constexpr int kThreads = 1024;
constexpr int kWarps = kThreads / kWarp;
constexpr double kWeightUnit = 0x1p44;

using Weight = unsigned long long;

/// One row and the block that works on it. All methods are called by all threads and give all the same value.
struct Row {
  const float* logits_V;
  int size;
  union Shared {
    Weight weights[kWarps];
    double sums[kWarps];
    uint64_t keys[kWarps];
  } & shared;
  RowToDraw params;
  float largest = 0;

  template <class F>
  __device__ void for_own(F f) const {
    for (int id = static_cast<int>(threadIdx.x); id < size; id += kThreads) f(id, clean(logits_V[id]));
  }

  template <class F>
  __device__ Weight sum(F weight_of) const {
    Weight own = 0;
    for_own([&](int id, float logit) { own += weight_of(id, logit); });
    return block_sum<kThreads>(own, shared.weights);
  }

  /// The largest key below `limit`; 0 when there is none.
  __device__ uint64_t best_below(uint64_t limit) const {
    uint64_t best = 0;
    for_own([&](int id, float logit) {
      const uint64_t key = rank_key(logit, id);
      if (key < limit && key > best) best = key;
    });
    for (int step = kWarp / 2; step > 0; step /= 2)
      best = max(best, static_cast<uint64_t>(__shfl_xor_sync(kAllLanes, static_cast<Weight>(best), step)));
    if (threadIdx.x % kWarp == 0) shared.keys[threadIdx.x / kWarp] = best;
    __syncthreads();
    for (int w = 0; w < kWarps; ++w) best = max(best, shared.keys[w]);
    __syncthreads();
    return best;
  }

  __device__ float score(float logit) const { return (logit - largest) / params.temperature; }
};

/// The largest 32-bit key for which `enough(key)` holds, given that it holds for 0 and, if for some key, for
/// every smaller one.
template <class F>
__device__ uint32_t last_key(F enough) {
  uint32_t key = 0;
  for (uint32_t bit = 0x80000000; bit != 0; bit >>= 1)
    if (enough(key | bit)) key |= bit;
  return key;
}

/// What the filters leave.
struct Kept {
  uint32_t kth_order;     // top-k: order_of(logit) of the k-th most likely token
  float min_weight;       // min-p
  uint32_t lowest_order;  // top-p: order_of(logit) of the least likely token that stays
  int equals;             // top-p: of the tokens at exactly lowest_order, so many with the lowest ids stay
};

/// The weight of a token before top-p.
__device__ Weight weight_of(const Row& row, const Kept& kept, float logit) {
  if (order_of(logit) < kept.kth_order) return 0;
  const double weight = exp(static_cast<double>(row.score(logit)));
  return weight < static_cast<double>(kept.min_weight) ? 0 : __double2ull_rn(weight * kWeightUnit);
}

__device__ Kept filter(const Row& row) {
  const RowToDraw& params = row.params;
  Kept kept{0, params.min_p, 0, 0x7FFFFFFF};
  if (params.top_k > 0 && params.top_k < row.size)
    kept.kth_order = last_key([&](uint32_t lowest) {
      const Weight count =
          row.sum([&](int, float logit) { return order_of(logit) >= lowest ? Weight{1} : Weight{0}; });
      return count >= static_cast<Weight>(params.top_k);
    });
  if (!(params.top_p < 1)) return kept;

  // A token stays while what is more likely weighs less than p of the whole.
  const Weight whole = row.sum([&](int, float logit) { return weight_of(row, kept, logit); });
  const double wanted = static_cast<double>(params.top_p) * static_cast<double>(whole);
  const auto weight_above = [&](uint32_t order) {
    return row.sum(
        [&](int, float logit) { return order_of(logit) > order ? weight_of(row, kept, logit) : Weight{0}; });
  };
  // The least likely logit that stays: the weight above the next smaller value is already enough.
  const uint32_t lowest = last_key([&](uint32_t order) {
    if (order == 0) return true;
    const Weight from_here = weight_above(order - 1);
    return from_here > 0 && static_cast<double>(from_here) >= wanted;
  });
  kept.lowest_order = lowest;
  const Weight above = weight_above(lowest);
  const Weight equal_weight = row.sum(
      [&](int, float logit) { return order_of(logit) == lowest ? weight_of(row, kept, logit) : Weight{0}; });
  const Weight equal_count =
      row.sum([&](int, float logit) { return order_of(logit) == lowest ? Weight{1} : Weight{0}; });
  if (equal_weight > 0) {
    const double each = static_cast<double>(equal_weight / equal_count);
    const double missing = ceil((wanted - static_cast<double>(above)) / each);
    kept.equals = static_cast<int>(fmin(fmax(missing, 1.0), static_cast<double>(equal_count)));
  }
  return kept;
}

/// What a block-wide scan in the order of ids has passed.
struct Passed {
  Weight weight;
  int equals;
};

/// Sum over the threads before this one, and over all, in a block of kThreads.
__device__ Weight scan(Weight own, Weight* shared, Weight& all) {
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  const int warp = static_cast<int>(threadIdx.x) / kWarp;
  Weight upto = own;
  for (int step = 1; step < kWarp; step *= 2) {
    const Weight from = __shfl_up_sync(kAllLanes, upto, step);
    if (lane >= step) upto += from;
  }
  if (lane == kWarp - 1) shared[warp] = upto;
  __syncthreads();
  Weight before = 0;
  all = 0;
  for (int w = 0; w < kWarps; ++w) {
    if (w < warp) before += shared[w];
    all += shared[w];
  }
  __syncthreads();
  return before + upto - own;
}

/// The weight of each token after all filters is asked for in the order of ids, kThreads at a time, because
/// of the tokens that tie at top-p's end, only those with the lowest ids stay.
template <class F>
__device__ void for_kept(const Row& row, const Kept& kept, F take) {
  Weight equals = 0;
  for (int first = 0; first < row.size; first += kThreads) {
    const int id = first + static_cast<int>(threadIdx.x);
    const float logit = id < row.size ? clean(row.logits_V[id]) : kNothing;
    Weight weight = 0;
    const uint32_t order = order_of(logit);
    const bool equal = id < row.size && kept.lowest_order != 0 && order == kept.lowest_order;
    Weight own_equals = 0;
    if (kept.lowest_order != 0) {
      Weight in_tile = 0;
      own_equals = equals + scan(equal ? 1 : 0, row.shared.weights, in_tile);
      equals += in_tile;
    }
    const bool stays = equal ? own_equals < static_cast<Weight>(kept.equals) : order > kept.lowest_order;
    if (id < row.size && stays) weight = weight_of(row, kept, logit);
    if (!take(id, weight)) return;
  }
}

__device__ int draw(const Row& row, const Kept& kept, int* found) {
  Weight own = 0;
  for_kept(row, kept, [&](int, Weight weight) {
    own += weight;
    return true;
  });
  const Weight whole = block_sum<kThreads>(own, row.shared.weights);
  // The first token at which the running sum exceeds u times the whole; u < 1, so there is one.
  const auto target = static_cast<Weight>(row.params.uniform * static_cast<double>(whole));
  Weight passed = 0;
  for_kept(row, kept, [&](int id, Weight weight) {
    Weight in_tile = 0;
    const Weight before = passed + scan(weight, row.shared.weights, in_tile);
    if (before <= target && before + weight > target) *found = id;
    passed += in_tile;
    return passed <= target;
  });
  __syncthreads();
  return *found;
}

__global__ void __launch_bounds__(kThreads)
    sample_row(const float* logits_RV, int size, const RowToDraw* rows_R, DrawnToken* drawn_R,
               TokenLogprob* top_RL, int64_t most_top) {
  __shared__ Row::Shared shared;
  __shared__ int found;
  Row row{logits_RV + static_cast<int64_t>(blockIdx.x) * size, size, shared, rows_R[blockIdx.x]};
  const uint64_t first = row.best_below(~uint64_t{0});
  int token = id_of(first);
  row.largest = clean(row.logits_V[token]);
  if (row.largest == kNothing) {
    token = 0;
  } else if (row.params.temperature > 0) {
    if (threadIdx.x == 0) found = token;
    __syncthreads();
    token = draw(row, filter(row), &found);
  }
  DrawnToken drawn{token, 0};
  if (row.params.logprobs >= 0) {
    double own = 0;
    row.for_own(
        [&](int, float logit) { own += exp(static_cast<double>(logit) - static_cast<double>(row.largest)); });
    const double log_sum = log(block_sum<kThreads>(own, shared.sums));
    const auto logprob = [&](int id) {
      return static_cast<float>(static_cast<double>(clean(row.logits_V[id])) -
                                static_cast<double>(row.largest) - log_sum);
    };
    drawn.logprob = logprob(token);
    uint64_t key = first;
    for (int i = 0; i < min(row.params.logprobs, size); ++i) {
      if (i > 0) key = row.best_below(key);
      if (threadIdx.x == 0) top_RL[blockIdx.x * most_top + i] = {id_of(key), logprob(id_of(key))};
    }
  }
  if (threadIdx.x == 0) drawn_R[blockIdx.x] = drawn;
}

}  // namespace

void sample_rows(cudaStream_t stream, TensorView logits_RV, const RowToDraw* rows_R, DrawnToken* drawn_R,
                 TokenLogprob* top_RL, int64_t most_top) {
  sample_row<<<static_cast<unsigned>(logits_RV.dim(0)), kThreads, 0, stream>>>(
      logits_RV.as<const float>(), static_cast<int>(logits_RV.dim(1)), rows_R, drawn_R, top_RL, most_top);
  check_launch("sample");
}

}  // namespace penstock::cuda
