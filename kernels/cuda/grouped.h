// Products of many weights with rows of their own: experts with the pairs that chose them, heads with every
// token. How many rows an expert has is known on the device only, so launches depend on totals alone and can
// be recorded; each block finds out itself which rows it works on (grouped_tile.cuh).
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

#include "runtime/device/tensor.h"

namespace penstock::cuda {

/// Row r of group g of y = the same row of x times w_G[g]^T. It lies r row and g group distances behind the
/// beginning.
struct GroupedProblem {
  const void* x;            // k wide, in the weights' dtype
  void* y;                  // n wide, f32 or bf16; what lies between rows is left as it is
  const void* const* w_G;   // device memory: row-major n x k each; null where a group never has rows
  const int32_t* start_G1;  // device memory: group g has rows [start[g], start[g + 1]); null: each has all
  int64_t groups, rows;     // all groups' rows together; those of each group where start_G1 is null
  int64_t n, k;
  int64_t x_row, x_group, y_row, y_group;  // distances in elements
  /// y is silu(gate) * up and n / 2 wide, where gate and up are the halves of the product. Tensor cores only.
  bool gated = false;
};

/// How many rows most groups have at most, as far as totals tell: with rows spread by chance few have more
/// than twice the mean.
int64_t expected_rows(const GroupedProblem& problem);

/// Whether products of this problem run on tensor cores.
bool on_tensor_cores(const GroupedProblem& problem, DType weight);

/// Asynchronous, and the same launches for the same numbers and dtypes. Products of bfloat16 run on tensor
/// cores where rows begin at multiples of 16 bytes (K walked 16 at a time, in order, in one float32
/// accumulator), all others one multiply-add at a time, in order: a row's bits depend on that row and its
/// weight alone.
void grouped_product(cudaStream_t stream, const GroupedProblem& problem, DType weight, DType out);

}  // namespace penstock::cuda
