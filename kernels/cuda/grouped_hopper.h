// Grouped products of groups with many rows, on the tensor cores of Hopper as they are fed fastest. Compiled
// for sm_90a only: called nowhere else.
#pragma once

#include <cuda.h>

#include "kernels/cuda/grouped.h"

namespace penstock::cuda {

/// Rows of a weight that one tile copy reads. Of a gated product they are taken from gate and up by turns,
/// 8 of each (WeightRows).
constexpr int kHopperColumns = 256;

/// Whether it serves a problem that tensor cores serve.
bool grouped_hopper_serves(const GroupedProblem& problem);

/// As grouped_product for bfloat16, with the same bits. `w_maps_G` is device memory: the groups' weights as
/// map_weight describes them for kHopperColumns rows; what belongs to a group that never has rows is not
/// read.
void grouped_product_hopper(cudaStream_t stream, const GroupedProblem& problem, const CUtensorMap* w_maps_G,
                            DType out, int multiprocessors);

}  // namespace penstock::cuda
