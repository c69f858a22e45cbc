// What the kernels share: reading and writing values of either dtype, and sums whose order is fixed.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <cfloat>
#include <cstdint>

#include "runtime/device/cuda_handle.h"
#include "runtime/device/tensor.h"

namespace penstock::cuda {

constexpr int kWarp = 32;
constexpr unsigned kAllLanes = 0xFFFFFFFF;

__device__ inline float widen(float x) {
  return x;
}
__device__ inline float widen(__nv_bfloat16 x) {
  return __bfloat162float(x);
}
__device__ inline float widen(__half x) {
  return __half2float(x);
}
__device__ inline void put(float& to, float x) {
  to = x;
}
__device__ inline void put(__nv_bfloat16& to, float x) {
  to = __float2bfloat16_rn(x);
}
/// What float16 cannot hold becomes its largest number; NaN stays NaN.
__device__ inline void put(__half& to, float x) {
  constexpr float kLargest = 65504;
  to = __float2half_rn(fabsf(x) > kLargest ? copysignf(kLargest, x) : x);
}

/// The same sum in every lane; which lane adds what to what is fixed.
template <class T>
__device__ T warp_sum(T x) {
#pragma unroll
  for (int step = kWarp / 2; step > 0; step /= 2) x += __shfl_xor_sync(kAllLanes, x, step);
  return x;
}

/// The same sum in every thread of a block of kThreads. `shared` holds kThreads / 32 values; the block may
/// use it again once this has returned.
template <int kThreads, class T>
__device__ T block_sum(T x, T* shared) {
  x = warp_sum(x);
  if (threadIdx.x % kWarp == 0) shared[threadIdx.x / kWarp] = x;
  __syncthreads();
  T sum = shared[0];
  for (int w = 1; w < kThreads / kWarp; ++w) sum += shared[w];
  __syncthreads();
  return sum;
}

/// The sum of x over the threads of a block of kThreads up to and with this one. `shared` as for block_sum.
template <int kThreads>
__device__ int running_sum(int x, int* shared) {
  const unsigned lane = threadIdx.x % kWarp;
  for (unsigned step = 1; step < kWarp; step *= 2) {
    const int other = __shfl_up_sync(kAllLanes, x, step);
    if (lane >= step) x += other;
  }
  if (lane == kWarp - 1) shared[threadIdx.x / kWarp] = x;
  __syncthreads();
  for (unsigned w = 0; w < threadIdx.x / kWarp; ++w) x += shared[w];
  __syncthreads();
  return x;
}

/// The weight of the key whose score this lane has, -infinity for none, in a softmax over the keys of a warp
/// and those before: `max` is the largest score so far, `sum` that of the weights, and what they weighted
/// must be multiplied by `shrink` (Milakov and Gimelshein 2018).
__device__ inline float weigh_keys(float own, float& max, float& sum, float& shrink) {
  float largest = own;
  for (int step = kWarp / 2; step > 0; step /= 2)
    largest = fmaxf(largest, __shfl_xor_sync(kAllLanes, largest, step));
  largest = fmaxf(largest, max);
  shrink = expf(max - largest);
  const float weight = expf(own - largest);
  max = largest;
  sum = fmaf(sum, shrink, warp_sum(weight));
  return weight;
}

/// One warp. The scale by which the largest magnitude of x_n becomes `largest_code`; not a number if a value
/// is not, so that it stays visible.
__device__ inline float scale_of_codes(const float* x_n, int n, float largest_code, int lane) {
  uint32_t largest = 0;  // as bits, which are in the order of magnitudes, infinity and then NaN last
  for (int i = lane; i < n; i += kWarp) largest = max(largest, __float_as_uint(x_n[i]) & 0x7FFFFFFF);
  largest = __reduce_max_sync(kAllLanes, largest);
  const float quotient = __uint_as_float(largest) / largest_code;
  return quotient < FLT_MIN ? FLT_MIN : quotient;
}

/// Calls f(T()) with T the C++ type of a dtype: float or __nv_bfloat16.
template <class F>
void with_type(DType dtype, F f) {
  if (dtype == DType::bf16)
    f(__nv_bfloat16());
  else
    f(float());
}

inline void check_launch(const char* kernel, Where where = Where::here()) {
  check(cudaGetLastError(), kernel, where);
}

}  // namespace penstock::cuda
