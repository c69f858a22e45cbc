// Latent attention and experts as their definitions read: the part of the plain reference that DeepSeek
// needs. Callers have checked the shapes.
#pragma once

#include "kernels/cpu/contract.h"

namespace penstock::cpu {

void reference_latent_rope_and_store(const LatentShape& shape, const TensorView& q_THd,
                                     const TensorView& plain_THn, const LatentCacheView& cache,
                                     const TensorView& q_THe, const TensorView& latent_TL,
                                     const LatentRotaryView& rotary, const BatchView& batch);
void reference_latent_attention(const LatentShape& shape, const TensorView& out_THL, const TensorView& q_THd,
                                const LatentCacheView& cache, const BatchView& batch, float scale);
void reference_route(const RoutingView& routing, const TensorView& logits_TE, const GateView& gate);
void reference_combine(const TensorView& x_TD, const TensorView& y_SD, const RoutingView& routing);

}  // namespace penstock::cpu
