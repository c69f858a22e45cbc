#include "kernels/cuda/latent_attention.h"
#include "kernels/cuda/latent_cache.cuh"

namespace penstock::cuda {
namespace {

constexpr int kWarps = 8;

struct LatentRotation {
  const float* cos_sin_P2r;
  const float* norm_L;
  int half;  // r / 2
  float eps;
  bool interleave;
};

/// One warp. to_r = from_r rotated; pairs that lie side by side are taken apart, in q and k alike.
__device__ void rotate(float* to_r, const float* from_r, const LatentRotation& rotation, int position,
                       int lane) {
  const int half = rotation.half;
  const float* cos_r = rotation.cos_sin_P2r + static_cast<int64_t>(position) * 2 * half;
  const float* sin_r = cos_r + half;
  for (int i = lane; i < half; i += kWarp) {
    const float a = from_r[rotation.interleave ? 2 * i : i];
    const float b = from_r[rotation.interleave ? 2 * i + 1 : i + half];
    to_r[i] = a * cos_r[i] - b * sin_r[i];
    to_r[half + i] = b * cos_r[i] + a * sin_r[i];
  }
}

/// One warp writes the codes and the scale of x_n.
template <class Format>
__device__ void store_codes(uint8_t* to_n, void* scale_to, const float* x_n, int n, int lane) {
  const float scale = scale_of_codes(x_n, n, Format::kLargest, lane);
  for (int i = lane; i < n; i += kWarp) to_n[i] = Format::encode(x_n[i] / scale);
  if (lane == 0) memcpy(scale_to, &scale, sizeof scale);
}

/// One warp a head, and one more a token for its latent.
template <class Plain, class Format>
__global__ void latent_rope(float* q_THd, Plain* plain_THn, LatentCache cache, const float* q_THe,
                            const float* latent_TL, LatentRotation rotation, BatchView batch, int heads,
                            int plain) {
  extern __shared__ float x[];  // the latent, then the key
  const int head = static_cast<int>(blockIdx.y) * kWarps + static_cast<int>(threadIdx.y);
  if (head > heads) return;
  const int lane = static_cast<int>(threadIdx.x);
  const int64_t token = blockIdx.x;
  const int position = batch.positions_T[token];
  const int latent = cache.latent_dim;
  const int rope = cache.rope_dim;
  if (head < heads) {
    const int64_t j = token * heads + head;
    const float* q_e = q_THe + j * (plain + rope);
    for (int i = lane; i < plain; i += kWarp) put(plain_THn[j * plain + i], q_e[i]);
    rotate(q_THd + j * (latent + rope) + latent, q_e + plain, rotation, position, lane);
    return;
  }
  const float* from = latent_TL + token * (latent + rope);
  float sum = 0;
  for (int i = lane; i < latent; i += kWarp) sum = fmaf(from[i], from[i], sum);
  const float factor = 1.0F / sqrtf(warp_sum(sum) / static_cast<float>(latent) + rotation.eps);
  for (int i = lane; i < latent; i += kWarp) x[i] = from[i] * factor * rotation.norm_L[i];
  rotate(x + latent, from + latent, rotation, position, lane);
  __syncwarp();
  char* to = cache.at(cache.index(batch, batch.row_of_T[token], position));
  if constexpr (Format::kScaled) {
    auto* codes = reinterpret_cast<uint8_t*>(to);
    store_codes<Format>(codes, cache.scale(to, 0), x, latent, lane);
    store_codes<Format>(codes + latent, cache.scale(to, 1), x + latent, rope, lane);
  } else {
    auto* elements = reinterpret_cast<typename Format::Element*>(to);
    for (int i = lane; i < latent + rope; i += kWarp) put(elements[i], x[i]);
  }
}

}  // namespace

void latent_rope_and_store(cudaStream_t stream, TensorView q_THd, TensorView plain_THn,
                           const LatentCacheView& cache, TensorView q_THe, TensorView latent_TL,
                           const LatentRotaryView& rotary, const BatchView& batch) {
  if (batch.tokens == 0) return;
  const auto heads = static_cast<unsigned>(q_THd.dim(1));
  const dim3 grid(static_cast<unsigned>(batch.tokens), heads / kWarps + 1);
  const size_t shared = static_cast<size_t>(cache.latent_dim + cache.rope_dim) * sizeof(float);
  const LatentRotation rotation{rotary.cos_sin_P2r.as<const float>(), rotary.norm_L.as<const float>(),
                                static_cast<int>(cache.rope_dim / 2), rotary.norm_eps, rotary.interleave};
  with_type(plain_THn.dtype, [&](auto plain) {
    with_latent_format(cache.dtype, [&](auto format) {
      latent_rope<decltype(plain), decltype(format)><<<grid, dim3(kWarp, kWarps), shared, stream>>>(
          q_THd.as<float>(), plain_THn.as<decltype(plain)>(), LatentCache(cache), q_THe.as<const float>(),
          latent_TL.as<const float>(), rotation, batch, static_cast<int>(heads),
          static_cast<int>(plain_THn.dim(2)));
    });
  });
  check_launch("latent_rope_and_store");
}

}  // namespace penstock::cuda
