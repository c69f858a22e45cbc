#include "kernels/cuda/cache_types.cuh"
#include "kernels/cuda/kv_layout.h"
#include "kernels/cuda/rope.h"

namespace penstock::cuda {
namespace {

constexpr int kWarps = 8;

struct Rotation {
  const float* cos_sin_P2r;
  const float* q_norm_d;  // null: no norm
  const float* k_norm_d;
  int half;  // r
  float eps;
};

/// One warp writes the codes and the scale of x_d.
template <class Code>
__device__ float store_codes(Code* to_d, float* scale_to, const float* x_d, int dim, int lane) {
  const float scale = scale_of_codes(x_d, dim, Code::kLargest, lane);
  for (int i = lane; i < dim; i += kWarp) to_d[i].bits = Code::encode(x_d[i] / scale);
  if (lane == 0) *scale_to = scale;
  return scale;
}

/// Each lane reads the codes that it wrote. The order of these sums decides no answer's bits.
template <class Code>
__device__ void add_rounding(CacheRounding* sum, const Code* codes_d, float scale, const float* x_d, int dim,
                             int lane) {
  double error = 0, kept = 0;
  for (int i = lane; i < dim; i += kWarp) {
    const auto x = static_cast<double>(x_d[i]);
    const double lost = x - static_cast<double>(widen(codes_d[i]) * scale);
    error += lost * lost;
    kept += x * x;
  }
  error = warp_sum(error);
  kept = warp_sum(kept);
  if (lane != 0 || !isfinite(error)) return;  // what is no number would stay in the sums
  atomicAdd(&sum->error, error);
  atomicAdd(&sum->kept, kept);
}

/// One warp a head: values of the head pass through shared memory, because a lane rotates pairs (i, i + r)
/// but stores neighbours.
template <class From, class Q, class Cache>
__global__ void rope_heads(Q* q_THd, void* cache, float* scales, CacheRounding* rounding, const From* qkv_TN,
                           Rotation rotation, BatchView batch, int heads, int kv_heads, int dim,
                           int block_size) {
  extern __shared__ float shared[];
  const int all_heads = heads + 2 * kv_heads;
  const int head = static_cast<int>(blockIdx.y) * kWarps + static_cast<int>(threadIdx.y);
  if (head >= all_heads) return;
  const int lane = static_cast<int>(threadIdx.x);
  const int64_t token = blockIdx.x;
  const int position = batch.positions_T[token];
  float* x_d = shared + threadIdx.y * dim;
  const From* from_d = qkv_TN + (token * all_heads + head) * dim;

  float sum = 0;
  for (int i = lane; i < dim; i += kWarp) {
    const float x = widen(from_d[i]);
    x_d[i] = x;
    sum = fmaf(x, x, sum);
  }
  const bool is_query = head < heads;
  const bool is_value = head >= heads + kv_heads;
  const float* norm_d = is_query ? rotation.q_norm_d : is_value ? nullptr : rotation.k_norm_d;
  if (norm_d != nullptr) {
    const float scale = 1.0F / sqrtf(warp_sum(sum) / static_cast<float>(dim) + rotation.eps);
    for (int i = lane; i < dim; i += kWarp) x_d[i] = x_d[i] * scale * norm_d[i];
  }
  __syncwarp();
  if (!is_value) {
    const float* cos_r = rotation.cos_sin_P2r + static_cast<int64_t>(position) * 2 * rotation.half;
    const float* sin_r = cos_r + rotation.half;
    for (int i = lane; i < rotation.half; i += kWarp) {
      const float a = x_d[i];
      const float b = x_d[i + rotation.half];
      x_d[i] = a * cos_r[i] - b * sin_r[i];
      x_d[i + rotation.half] = b * cos_r[i] + a * sin_r[i];
    }
    __syncwarp();
  }
  if (is_query) {
    Q* to_d = q_THd + (token * heads + head) * dim;
    for (int i = lane; i < dim; i += kWarp) put(to_d[i], x_d[i]);
    return;
  }
  const int64_t row = batch.row_of_T[token];
  const int64_t block = batch.block_table_RB[row * batch.table_stride + position / block_size];
  const int64_t kv_head = (head - heads) % kv_heads;
  const int64_t at =
      ((block * 2 + (is_value ? 1 : 0)) * kv_heads + kv_head) * block_size + position % block_size;
  if constexpr (Cache::kScaled) {
    auto* to_d = static_cast<typename Cache::Key*>(cache) + at * dim;
    const float scale = store_codes(to_d, scales + at, x_d, dim, lane);
    // The positions that CPUs look at too (kernels/cpu/cache_rounding.h).
    if (position % 8 == 1) add_rounding(rounding, to_d, scale, x_d, dim, lane);
  } else if (is_value) {
    auto* v_d = static_cast<typename Cache::Value*>(cache) + at * dim;
    for (int i = lane; i < dim; i += kWarp) put(v_d[i], x_d[i]);
  } else {
    auto* k_d = static_cast<typename Cache::Key*>(cache) + at * dim;
    for (int i = lane; i < dim; i += kWarp) put(k_d[i], x_d[i]);
  }
}

}  // namespace

void rope_and_store(cudaStream_t stream, TensorView q_THd, const KvCacheView& cache, TensorView qkv_TN,
                    const RotaryView& rotary, const BatchView& batch, int64_t heads,
                    CacheRounding* rounding) {
  if (batch.tokens == 0) return;
  const auto all_heads = static_cast<unsigned>(heads + 2 * cache.kv_heads);
  const dim3 grid(static_cast<unsigned>(batch.tokens), (all_heads + kWarps - 1) / kWarps);
  const size_t shared = kWarps * static_cast<size_t>(cache.head_dim) * sizeof(float);
  const Rotation rotation{rotary.cos_sin_P2r.as<const float>(), rotary.q_norm_d.as<const float>(),
                          rotary.k_norm_d.as<const float>(), static_cast<int>(rotary.rotary_dim / 2),
                          rotary.norm_eps};
  with_type(qkv_TN.dtype, [&](auto from) {
    with_type(q_THd.dtype, [&](auto q) {
      with_cache_type(cache.dtype, [&](auto kv) {
        rope_heads<decltype(from), decltype(q), decltype(kv)><<<grid, dim3(kWarp, kWarps), shared, stream>>>(
            q_THd.as<decltype(q)>(), cache.data, scales_of(cache), rounding,
            qkv_TN.as<const decltype(from)>(), rotation, batch, static_cast<int>(heads),
            static_cast<int>(cache.kv_heads), static_cast<int>(cache.head_dim),
            static_cast<int>(cache.block_size));
      });
    });
  });
  check_launch("rope_and_store");
}

}  // namespace penstock::cuda
