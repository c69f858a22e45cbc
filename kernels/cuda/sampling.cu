// One block a row. Where the reference (kernels/cpu/reference_sample.cpp) sorts, this searches: the row is
// counted or weighed into buckets by likelihood, the bucket in which a filter cuts is cut into buckets again,
// until one logit is left. Weights are summed as integers in units of 2^-44 of the largest, so that no sum
// depends on its order; tokens lighter than that are never drawn.
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

  /// f(id, logit) for ids from, from + kStep, ... below `end`, in this order.
  template <int kStep, class F>
  __device__ void for_ids(int from, int end, F f) const {
    constexpr int kAtOnce = 4;  // are read before the first is used
    for (; from + (kAtOnce - 1) * kStep < end; from += kAtOnce * kStep) {
      float logits[kAtOnce];
#pragma unroll
      for (int i = 0; i < kAtOnce; ++i) logits[i] = logits_V[from + i * kStep];
#pragma unroll
      for (int i = 0; i < kAtOnce; ++i) f(from + i * kStep, clean(logits[i]));
    }
    for (; from < end; from += kStep) f(from, clean(logits_V[from]));
  }
  template <class F>
  __device__ void for_own(F f) const {
    for_ids<kThreads>(static_cast<int>(threadIdx.x), size, f);
  }

  /// The largest key below `limit`; 0 when there is none.
  __device__ uint64_t best_below(uint64_t limit) const {
    uint64_t best = 0;
    for_own([&](int id, float logit) {
      const uint64_t key = rank_key(logit, id);
      if (key < limit && key > best) best = key;
    });
    return largest_of(best);
  }

  /// The largest of one key a thread.
  __device__ uint64_t largest_of(uint64_t key) const {
    for (int step = kWarp / 2; step > 0; step /= 2)
      key = max(key, static_cast<uint64_t>(__shfl_xor_sync(kAllLanes, static_cast<Weight>(key), step)));
    if (threadIdx.x % kWarp == 0) shared.keys[threadIdx.x / kWarp] = key;
    __syncthreads();
    for (int w = 0; w < kWarps; ++w) key = max(key, shared.keys[w]);
    __syncthreads();
    return key;
  }

  __device__ float score(float logit) const {
    return (logit - largest) / params.temperature;
  }
};

/// What the filters leave.
struct Kept {
  uint32_t kth_order;     // top-k: order_of(logit) of the k-th most likely token
  float min_weight;       // min-p
  uint32_t lowest_order;  // top-p: order_of(logit) of the least likely token that stays
  int equals;             // top-p: of the tokens at exactly lowest_order, so many with the lowest ids stay
};

/// The weight of a token before top-p.
__device__ Weight weight_of(const Row& row, const Kept& kept, float logit) {
  constexpr float kLightest = -31.2F;  // exp of which is half a unit
  const float score = row.score(logit);
  if (score < kLightest || order_of(logit) < kept.kth_order) return 0;
  const double weight = exp(static_cast<double>(score));
  return weight < static_cast<double>(kept.min_weight) ? 0 : __double2ull_rn(weight * kWeightUnit);
}

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

/// One sum for every bucket, in four parts of 12 bits, because shared memory adds 32-bit numbers fastest: no
/// part overflows below 2^20 tokens.
struct Buckets {
  static constexpr int kCount = kThreads;
  static constexpr int kParts = 4;
  static constexpr int kPartBits = 12;
  uint32_t parts[kParts][kCount];
  int cut;

  __device__ void clear() {
    for (auto& part : parts) part[threadIdx.x] = 0;
    __syncthreads();
  }
  __device__ void add(int bucket, Weight weight) {
    for (int i = 0; i < kParts; ++i)
      if (const auto part = static_cast<uint32_t>(weight >> (i * kPartBits)) & ((1U << kPartBits) - 1))
        atomicAdd(&parts[i][bucket], part);
  }
};
static_assert(Buckets::kParts * Buckets::kPartBits > 44, "a weight is at most 2^44");

/// The logits of one bucket, where there is room for them: what is left of a search reads only these.
struct Candidates {
  static constexpr int kRoom = 4096;
  float logits[kRoom];
  int count;

  __device__ void clear() {
    if (threadIdx.x == 0) count = 0;
    __syncthreads();
  }
  __device__ void add(float logit) {
    const int at = atomicAdd(&count, 1);
    if (at < kRoom) logits[at] = logit;
  }
};

/// What the search for a cut keeps in shared memory.
struct CutSearch {
  Buckets buckets;
  Candidates candidates;
};

/// The tokens as likely as a filter's last one, and what lies above them.
struct Cut {
  uint32_t order;  // order_of(logit) of the last one
  Weight above;    // sum over more likely tokens
  double wanted;
};

/// The most likely token down to which the sum of sum_of(logit) is enough: at least wanted_of(sum over the
/// row), and not nothing. The sum over the whole row must be enough. 2 passes over the row, up to 5 where
/// very many tokens are about as likely as the last one.
template <class F, class G>
__device__ Cut find_cut(const Row& row, CutSearch& search, F sum_of, G wanted_of) {
  auto& [buckets, candidates] = search;
  double wanted = -1;  // known after the first pass
  const auto enough = [&](Weight sum) { return sum > 0 && static_cast<double>(sum) >= wanted; };
  Weight above = 0;
  const auto for_row = [&](auto f) { row.for_own([&](int, float logit) { f(logit); }); };
  const auto for_candidates = [&](auto f) {
    for (int i = static_cast<int>(threadIdx.x); i < candidates.count; i += kThreads) f(candidates.logits[i]);
  };
  // Sums into buckets, 0 the most likely; -1 is none. Returns that with which the sum is enough.
  const auto bucket_at = [&](auto for_each, auto bucket_of) {
    buckets.clear();
    for_each([&](float logit) {
      const int bucket = bucket_of(logit);
      if (bucket >= 0) buckets.add(bucket, sum_of(logit));
    });
    __syncthreads();
    Weight own = 0;
    for (int i = 0; i < Buckets::kParts; ++i)
      own += static_cast<Weight>(buckets.parts[i][threadIdx.x]) << (i * Buckets::kPartBits);
    Weight all = 0;
    const Weight before = above + scan(own, row.shared.weights, all);
    if (wanted < 0) wanted = wanted_of(static_cast<double>(all));
    if (!enough(before) && enough(before + own)) {
      buckets.cut = static_cast<int>(threadIdx.x);
      row.shared.weights[0] = before;
    }
    __syncthreads();
    above = row.shared.weights[0];
    const int cut = buckets.cut;
    __syncthreads();
    return cut;
  };

  // First by score, evenly: what is too light to be drawn shares the last bucket.
  constexpr float kBucketsAUnit = 32;
  const auto by_score = [&](float logit) {
    return static_cast<int>(fminf(-row.score(logit) * kBucketsAUnit, Buckets::kCount - 1));
  };
  const int first = bucket_at(for_row, by_score);
  uint32_t least = 0xFFFFFFFF, most = 0;
  candidates.clear();
  for_row([&](float logit) {
    if (by_score(logit) != first) return;
    candidates.add(logit);
    least = min(least, order_of(logit));
    most = max(most, order_of(logit));
  });
  least = ~static_cast<uint32_t>(row.largest_of(~least));
  most = static_cast<uint32_t>(row.largest_of(most));
  // Then by logit, until a bucket holds one value only.
  while (least < most) {
    int shift = 0;
    while ((most - least) >> shift >= static_cast<uint32_t>(Buckets::kCount)) ++shift;
    const auto bucket_of = [&](float logit) {
      const uint32_t order = order_of(logit);
      return order < least || order > most ? -1 : static_cast<int>((most - order) >> shift);
    };
    const auto cut =
        static_cast<uint32_t>(candidates.count <= Candidates::kRoom ? bucket_at(for_candidates, bucket_of)
                                                                    : bucket_at(for_row, bucket_of));
    most -= cut << shift;
    least = max(least, most - min(most, (uint32_t{1} << shift) - 1));
  }
  return {most, above, wanted};
}

__device__ Kept filter(const Row& row, CutSearch& search) {
  const RowToDraw& params = row.params;
  Kept kept{0, params.min_p, 0, 0x7FFFFFFF};
  if (params.top_k > 0 && params.top_k < row.size)
    kept.kth_order = find_cut(
                         row, search, [](float) { return Weight{1}; },
                         [&](double) { return static_cast<double>(params.top_k); })
                         .order;
  if (!(params.top_p < 1)) return kept;

  // A token stays while what is more likely weighs less than p of the whole.
  const auto weight = [&](float logit) { return weight_of(row, kept, logit); };
  const Cut cut = find_cut(row, search, weight, [&](double whole) {
    return fmax(static_cast<double>(params.top_p) * whole, 0.0);
  });
  kept.lowest_order = cut.order;
  const auto each = static_cast<double>(weight(logit_of(cut.order)));
  kept.equals = static_cast<int>(fmin(fmax(ceil((cut.wanted - static_cast<double>(cut.above)) / each), 1.0),
                                      static_cast<double>(row.size)));
  return kept;
}

/// Where in the order of ids the draw falls. Each warp sums whole chunks of neighbouring ids, then the block
/// walks through one chunk. Of the tokens that tie at top-p's end only those with the lowest ids stay, so
/// they are counted apart.
constexpr int kChunks = 4 * kWarps;
struct Chunks {
  Weight weights[kChunks];  // without the tokens that tie
  int equals[kChunks];
  int drawn;  // the chunk
  Weight passed_weight;
  int passed_equals;
  int found;  // the token
};

__device__ int draw(const Row& row, const Kept& kept, Chunks& chunks, int most_likely) {
  const int thread = static_cast<int>(threadIdx.x);
  const int lane = thread % kWarp;
  const int chunk_size = (row.size + kChunks - 1) / kChunks;
  const auto ties = [&](float logit) {
    return kept.lowest_order != 0 && order_of(logit) == kept.lowest_order;
  };
  const auto weight_above = [&](float logit) {
    return order_of(logit) > kept.lowest_order ? weight_of(row, kept, logit) : Weight{0};
  };
  for (int chunk = thread / kWarp; chunk < kChunks; chunk += kWarps) {
    Weight weight = 0;
    int equals = 0;
    const int end = min(row.size, (chunk + 1) * chunk_size);
    row.for_ids<kWarp>(chunk * chunk_size + lane, end, [&](int, float logit) {
      weight += weight_above(logit);
      equals += ties(logit) ? 1 : 0;
    });
    weight = warp_sum(weight);
    equals = warp_sum(equals);
    if (lane == 0) {
      chunks.weights[chunk] = weight;
      chunks.equals[chunk] = equals;
    }
  }
  if (thread == 0) {
    chunks.drawn = -1;
    chunks.found = most_likely;
  }
  __syncthreads();

  const Weight each = kept.lowest_order == 0 ? 0 : weight_of(row, kept, logit_of(kept.lowest_order));
  const auto staying = [&](Weight before, int equals) {  // of `equals` tokens that tie, after `before` others
    return static_cast<Weight>(min(max(kept.equals - static_cast<int>(before), 0), equals));
  };
  const bool mine = thread < kChunks;
  const int own_equals = mine ? chunks.equals[thread] : 0;
  Weight all_equals = 0, whole = 0;
  const Weight equals_before = scan(static_cast<Weight>(own_equals), row.shared.weights, all_equals);
  const Weight own = mine ? chunks.weights[thread] + staying(equals_before, own_equals) * each : 0;
  const Weight before = scan(own, row.shared.weights, whole);
  // The first token at which the running sum exceeds u times the whole; u < 1, so there is one.
  const auto target = static_cast<Weight>(row.params.uniform * static_cast<double>(whole));
  if (before <= target && before + own > target) {
    chunks.drawn = thread;
    chunks.passed_weight = before;
    chunks.passed_equals = static_cast<int>(equals_before);
  }
  __syncthreads();
  if (chunks.drawn < 0) return most_likely;

  Weight passed = chunks.passed_weight, equals = static_cast<Weight>(chunks.passed_equals);
  const int end = min(row.size, (chunks.drawn + 1) * chunk_size);
  for (int first = chunks.drawn * chunk_size; first < end && passed <= target; first += kThreads) {
    const int id = first + thread;
    const float logit = id < end ? clean(row.logits_V[id]) : kNothing;
    const bool tie = id < end && ties(logit);
    Weight tile_equals = 0, tile_weight = 0;
    const Weight ties_before = equals + scan(tie ? 1 : 0, row.shared.weights, tile_equals);
    const Weight weight = id >= end ? 0 : tie ? staying(ties_before, 1) * each : weight_above(logit);
    const Weight from = passed + scan(weight, row.shared.weights, tile_weight);
    if (from <= target && from + weight > target) chunks.found = id;
    passed += tile_weight;
    equals += tile_equals;
  }
  __syncthreads();
  return chunks.found;
}

__global__ void __launch_bounds__(kThreads, 2)
    sample_row(const float* logits_RV, int size, const RowToDraw* rows_R, DrawnToken* drawn_R,
               TokenLogprob* top_RL, int64_t most_top) {
  __shared__ Row::Shared shared;
  __shared__ union {  // used one after the other
    CutSearch cut;
    Chunks chunks;
  } search;
  Row row{logits_RV + static_cast<int64_t>(blockIdx.x) * size, size, shared, rows_R[blockIdx.x]};
  const uint64_t first = row.best_below(~uint64_t{0});
  int token = id_of(first);
  row.largest = clean(row.logits_V[token]);
  if (row.largest == kNothing) {
    token = 0;
  } else if (row.params.temperature > 0) {
    const Kept kept = filter(row, search.cut);
    token = draw(row, kept, search.chunks, token);
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
