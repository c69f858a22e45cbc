// Latent attention in plain arithmetic: one warp a query and head, keys one after another. For float32, and
// for sizes and devices that the tensor-core kernels are not compiled for.
#include "kernels/cuda/latent_attention.h"
#include "kernels/cuda/latent_cache.cuh"

namespace penstock::cuda {
namespace {

constexpr int kWarps = 4;
constexpr int kChunk = 32;  // keys whose scores are found before the softmax moves on

/// What a lane gives of sum q_n x_n over a vector of the cache.
template <class Format>
__device__ float share_of_dot(const float* q_n, const typename Format::Element* x_n, int n, int lane) {
  float dot = 0;
  for (int i = lane; i < n; i += kWarp) dot = fmaf(q_n[i], Format::decode(x_n[i]), dot);
  return dot;
}

/// Scores of a chunk of keys go to the lanes, key first + i to lane i; every lane then weighs the values of
/// its own columns. Codes are multiplied as they are, then a score and a weight by their position's scales.
template <class Out, class Format>
__global__ void attend_latents_plain(Out* out_THL, const float* q_THd, LatentCache cache, BatchView batch,
                                     int heads, float scale) {
  extern __shared__ float shared[];
  using Element = typename Format::Element;
  const int head = static_cast<int>(blockIdx.y) * kWarps + static_cast<int>(threadIdx.y);
  if (head >= heads) return;
  const int lane = static_cast<int>(threadIdx.x);
  const int64_t token = blockIdx.x;
  const int64_t row = batch.row_of_T[token];
  const int keys = batch.positions_T[token] + 1;
  const int latent = cache.latent_dim;
  const float* q_d = q_THd + (token * heads + head) * (latent + cache.rope_dim);
  float* acc_L = shared + static_cast<int>(threadIdx.y) * latent;
  for (int i = lane; i < latent; i += kWarp) acc_L[i] = 0;

  float max = -INFINITY, sum = 0;
  for (int first = 0; first < keys; first += kChunk) {
    const int count = min(kChunk, keys - first);
    float own = -INFINITY;  // lane i keeps the score of key first + i
    for (int i = 0; i < count; ++i) {
      char* at = cache.at(cache.index(batch, row, first + i));
      const auto* x_d = reinterpret_cast<const Element*>(at);
      float dot = share_of_dot<Format>(q_d, x_d, latent, lane);
      float key_dot = share_of_dot<Format>(q_d + latent, x_d + latent, cache.rope_dim, lane);
      if constexpr (Format::kScaled) {
        dot *= read_scale(cache.scale(at, 0));
        key_dot *= read_scale(cache.scale(at, 1));
      }
      dot = warp_sum(dot + key_dot);
      if (lane == i) own = dot * scale;
    }
    float shrink;
    const float weight = weigh_keys(own, max, sum, shrink);
    for (int j = lane; j < latent; j += kWarp) acc_L[j] *= shrink;
    for (int i = 0; i < count; ++i) {
      char* at = cache.at(cache.index(batch, row, first + i));
      float w = __shfl_sync(kAllLanes, weight, i);
      if constexpr (Format::kScaled) w *= read_scale(cache.scale(at, 0));
      const auto* x_L = reinterpret_cast<const Element*>(at);
      for (int j = lane; j < latent; j += kWarp) acc_L[j] = fmaf(w, Format::decode(x_L[j]), acc_L[j]);
    }
  }
  Out* out_L = out_THL + (token * heads + head) * latent;
  for (int j = lane; j < latent; j += kWarp) put(out_L[j], acc_L[j] / sum);
}

}  // namespace

void latent_attention_plain(cudaStream_t stream, TensorView out_THL, TensorView q_THd,
                            const LatentCacheView& cache, const BatchView& batch, float scale) {
  if (batch.tokens == 0) return;
  const int64_t heads = q_THd.dim(1);
  const dim3 grid(static_cast<unsigned>(batch.tokens), static_cast<unsigned>((heads + kWarps - 1) / kWarps));
  const size_t shared = kWarps * static_cast<size_t>(cache.latent_dim) * sizeof(float);
  with_type(out_THL.dtype, [&](auto out) {
    with_latent_format(cache.dtype, [&](auto format) {
      attend_latents_plain<decltype(out), decltype(format)><<<grid, dim3(kWarp, kWarps), shared, stream>>>(
          out_THL.as<decltype(out)>(), q_THd.as<const float>(), LatentCache(cache), batch,
          static_cast<int>(heads), scale);
    });
  });
  check_launch("latent attention");
}

}  // namespace penstock::cuda
