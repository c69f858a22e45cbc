// The CPU back end on a chosen set of kernels; make_cpu_ops(device, threads) takes the best one. Tests and
// the bench compare several.
#pragma once

#include "kernels/cpu/kernel_table.h"
#include "kernels/ops.h"

namespace penstock::cpu {

std::unique_ptr<Ops> make_ops(Device& device, int threads, const KernelTable& kernels);

}  // namespace penstock::cpu
