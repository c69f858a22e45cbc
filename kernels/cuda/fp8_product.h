// Products with weights kept in FP8 (fp8_matrix.h): one weight with all rows, or the weights of experts with
// the rows that chose them.
#pragma once

#include "kernels/cuda/attention.h"
#include "kernels/cuda/grouped.h"

namespace penstock::cuda {

/// y = x w^T + bias, or += the same, where all weights are data of an Fp8Matrix. Of a problem without
/// start_G1 there is one group; none is gated.
struct Fp8Problem : GroupedProblem {
  DType in, out;        // of x and y: f32 or bf16
  const void* w;        // the weight where w_G is null
  const float* bias_N;  // null: none
  bool add;
};

/// Asynchronous, and the same launches for the same numbers and dtypes. Each element is acc = fma(partial,
/// scale, acc) over blocks of 128 of K, in order, in float32. Where bfloat16 meets Hopper, each 128 values of
/// x are rounded to FP8 with a scale of their own, largest magnitude / 448; `partial` is what wgmma makes of
/// the codes, `scale` the product of both scales (DeepSeek-V3 report, section 3.3.2). Elsewhere weights are
/// widened exactly and x is taken as it is. A row's bits depend on that row and the weight alone.
void fp8_product(cudaStream_t stream, const Fp8Problem& problem, Workspace workspace, const Gpu& gpu);

}  // namespace penstock::cuda
