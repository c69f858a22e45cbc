// Launchers of choosing experts and putting their results together: shapes and meaning as in kernels/ops.h.
// All are asynchronous.
#pragma once

#include <cuda_runtime_api.h>

#include "kernels/ops.h"

namespace penstock::cuda {

/// More experts than these do not fit into a block's memory while they are sorted.
constexpr int64_t kMostExperts = 1024;

/// A logit that is no number makes its token choose some experts or others, and disturbs no other token.
void route(cudaStream_t stream, const RoutingView& routing, TensorView logits_TE, const GateView& gate);
void combine_experts(cudaStream_t stream, TensorView x_TD, TensorView y_SD, const RoutingView& routing);

}  // namespace penstock::cuda
