// Attention in plain arithmetic: one warp a query and head, keys one after another. For float32, and for head
// sizes that the tensor-core kernels are not compiled for. Codes of one byte are multiplied as they are: a
// score is then multiplied by its key's scale, and a weight, once it has been summed, by its value's.
#include "kernels/cuda/attention.h"
#include "kernels/cuda/cache_types.cuh"
#include "kernels/cuda/kv_layout.h"

namespace penstock::cuda {
namespace {

constexpr int kWarps = 4;
constexpr int kChunk = 32;  // keys whose scores are found before the softmax moves on

/// Scores of a chunk of keys go through shared memory: every lane then weighs the values of its own columns.
template <class Q, class Out, class Cache>
__global__ void attend_plain(Out* out_THd, const Q* q_THd, const void* cache, const float* scales,
                             BatchView batch, int heads, int kv_heads, int dim, int block_size, float scale) {
  extern __shared__ float shared[];
  const auto* keys_cache = static_cast<const typename Cache::Key*>(cache);
  const auto* values_cache = static_cast<const typename Cache::Value*>(cache);
  const int head = static_cast<int>(blockIdx.y) * kWarps + static_cast<int>(threadIdx.y);
  if (head >= heads) return;
  const int lane = static_cast<int>(threadIdx.x);
  const int64_t token = blockIdx.x;
  const int64_t row = batch.row_of_T[token];
  const int keys = batch.positions_T[token] + 1;
  const int kv_head = head / (heads / kv_heads);
  const Q* q_d = q_THd + (token * heads + head) * dim;
  float* acc_d = shared + static_cast<int>(threadIdx.y) * dim;
  for (int i = lane; i < dim; i += kWarp) acc_d[i] = 0;

  const auto key_row = [&](int position) {  // of d values
    const int64_t block = batch.block_table_RB[row * batch.table_stride + position / block_size];
    return (block * 2 * kv_heads + kv_head) * block_size + position % block_size;
  };
  const int64_t value_rows = static_cast<int64_t>(kv_heads) * block_size;  // from K to V
  float max = -INFINITY, sum = 0;
  for (int first = 0; first < keys; first += kChunk) {
    const int count = min(kChunk, keys - first);
    float own = -INFINITY;  // lane i keeps the score of key first + i
    for (int i = 0; i < count; ++i) {
      const int64_t key = key_row(first + i);
      const auto* k_d = keys_cache + key * dim;
      float dot = 0;
      for (int j = lane; j < dim; j += kWarp) dot = fmaf(widen(q_d[j]), widen(k_d[j]), dot);
      dot = warp_sum(dot);
      if constexpr (Cache::kScaled) dot *= scales[key];
      if (lane == i) own = dot * scale;
    }
    float shrink;
    const float weight = weigh_keys(own, max, sum, shrink);
    for (int j = lane; j < dim; j += kWarp) acc_d[j] *= shrink;
    for (int i = 0; i < count; ++i) {
      const int64_t value = key_row(first + i) + value_rows;
      const auto* v_d = values_cache + value * dim;
      float w = __shfl_sync(kAllLanes, weight, i);
      if constexpr (Cache::kScaled) w *= scales[value];
      for (int j = lane; j < dim; j += kWarp) acc_d[j] = fmaf(w, widen(v_d[j]), acc_d[j]);
    }
  }
  Out* out_d = out_THd + (token * heads + head) * dim;
  for (int j = lane; j < dim; j += kWarp) put(out_d[j], acc_d[j] / sum);
}

}  // namespace

void attention_plain(cudaStream_t stream, TensorView out_THd, TensorView q_THd, const KvCacheView& cache,
                     const BatchView& batch, const AttentionShape& shape, float scale) {
  if (batch.tokens == 0) return;
  const dim3 grid(static_cast<unsigned>(batch.tokens),
                  static_cast<unsigned>((shape.heads + kWarps - 1) / kWarps));
  const size_t shared = kWarps * static_cast<size_t>(shape.dim) * sizeof(float);
  with_type(out_THd.dtype, [&](auto out) {
    with_type(q_THd.dtype, [&](auto q) {
      with_cache_type(cache.dtype, [&](auto kv) {
        attend_plain<decltype(q), decltype(out), decltype(kv)><<<grid, dim3(kWarp, kWarps), shared, stream>>>(
            out_THd.as<decltype(out)>(), q_THd.as<const decltype(q)>(), cache.data, scales_of(cache), batch,
            static_cast<int>(shape.heads), static_cast<int>(shape.kv_heads), static_cast<int>(shape.dim),
            static_cast<int>(cache.block_size), scale);
      });
    });
  });
  check_launch("attention");
}

}  // namespace penstock::cuda
