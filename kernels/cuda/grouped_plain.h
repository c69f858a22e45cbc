// Grouped products without tensor cores, for float32 and for widths that they do not take.
#pragma once

#include "kernels/cuda/grouped.h"

namespace penstock::cuda {

/// As grouped_product, for every shape. One multiply-add at a time, in the order of K.
void grouped_product_plain(cudaStream_t stream, const GroupedProblem& problem, DType weight, DType out);

}  // namespace penstock::cuda
