// Choosing experts and putting their results together, token by token. Callers have checked the shapes.
#pragma once

#include <vector>

#include "kernels/cpu/kernel_table.h"
#include "kernels/cpu/team.h"
#include "kernels/ops.h"

namespace penstock::cpu {

/// `scratch`: one vector a thread, grown to what is needed.
void route(const KernelTable& kernels, Team& team, std::vector<std::vector<float>>& scratch,
           const RoutingView& routing, const TensorView& logits_TE, const GateView& gate);
void combine_experts(const KernelTable& kernels, Team& team, std::vector<std::vector<float>>& scratch,
                     const TensorView& x_TD, const TensorView& y_SD, const RoutingView& routing);

}  // namespace penstock::cpu
