// Attention over the paged cache of latents. Two implementations of Ops::latent_attention: tensor cores for
// bfloat16 models of DeepSeek's sizes (L = 512, r = 64) on Hopper, and plain arithmetic for everything else.
// A row's bits do not depend on which tokens share the call, nor on whether its query came as prefill or as
// decode.
#pragma once

#include <cuda_runtime_api.h>

#include "kernels/cuda/attention.h"

namespace penstock::cuda {

/// Normed latents and rotated keys go to the cache, queries are taken apart and rotated:
/// Ops::latent_rope_and_store.
void latent_rope_and_store(cudaStream_t stream, TensorView q_THd, TensorView plain_THn,
                           const LatentCacheView& cache, TensorView q_THe, TensorView latent_TL,
                           const LatentRotaryView& rotary, const BatchView& batch);

bool latent_tensor_cores_serve(const LatentCacheView& cache, DType out, const Gpu& gpu);
void latent_attention_tensor_cores(cudaStream_t stream, TensorView out_THL, TensorView q_THd,
                                   const LatentCacheView& cache, const BatchView& batch, float scale,
                                   Workspace workspace, const Gpu& gpu);
void latent_attention_plain(cudaStream_t stream, TensorView out_THL, TensorView q_THd,
                            const LatentCacheView& cache, const BatchView& batch, float scale);

}  // namespace penstock::cuda
