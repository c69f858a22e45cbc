// How logits are ranked on the device: cleaned, and as integers whose order is the order of likelihood.
#pragma once

#include "kernels/cuda/common.cuh"

namespace penstock::cuda {

constexpr float kNothing = -INFINITY;

__device__ inline float clean(float logit) {
  if (isnan(logit)) return kNothing;
  return fminf(logit, 3.402823466e+38F);
}

/// Order of floats as order of integers.
__device__ inline uint32_t order_of(float x) {
  const uint32_t bits = __float_as_uint(x == 0 ? 0.0F : x);
  return bits & 0x80000000 ? ~bits : bits | 0x80000000;
}

/// The logit of an order.
__device__ inline float logit_of(uint32_t order) {
  return __uint_as_float(order & 0x80000000 ? order & 0x7FFFFFFF : ~order);
}

/// A token's rank key: larger is more likely, the lower id first among equals. Never 0.
__device__ inline uint64_t rank_key(float logit, int id) {
  return static_cast<uint64_t>(order_of(logit)) << 32 | (0xFFFFFFFF - static_cast<uint32_t>(id));
}
__device__ inline int id_of(uint64_t key) {
  return static_cast<int>(0xFFFFFFFF - static_cast<uint32_t>(key));
}

}  // namespace penstock::cuda
