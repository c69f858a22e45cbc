// What the KV cache keeps of a position, in bytes: the one formula that the stages allocate by, the kernels
// lay out and `penstock plan` prints. In a format of one byte a value (FP8 E4M3 or int8) every vector of a
// token is kept with a float32 scale of its own, written with it: value = code x scale. A scale depends on
// its own token and head only, so the stored bytes do not depend on how a sequence was cut.
#pragma once

#include <cstdint>

#include "runtime/device/tensor.h"

namespace penstock {

/// What a cache may be kept in: f32, bf16 (in which what serves as K is float16), e4m3 and i8 with scales.
constexpr bool is_kv_dtype(DType dtype) {
  return dtype == DType::f32 || dtype == DType::bf16 || dtype == DType::e4m3 || dtype == DType::i8;
}
constexpr bool has_scales(DType kv_dtype) {
  return bytes_of(kv_dtype) == 1;
}

/// A vector of `values` in the cache, its scale included.
constexpr int64_t kv_vector_bytes(int64_t values, DType kv_dtype) {
  return values * static_cast<int64_t>(bytes_of(kv_dtype)) +
         (has_scales(kv_dtype) ? static_cast<int64_t>(sizeof(float)) : 0);
}

/// Grouped-query attention: K and V of each KV head.
constexpr int64_t kv_position_bytes(int64_t kv_heads, int64_t head_dim, DType kv_dtype) {
  return 2 * kv_heads * kv_vector_bytes(head_dim, kv_dtype);
}

/// Latent attention, whatever the number of heads: the latent and the rotated key.
constexpr int64_t latent_position_bytes(int64_t latent_dim, int64_t rope_dim, DType kv_dtype) {
  return kv_vector_bytes(latent_dim, kv_dtype) + kv_vector_bytes(rope_dim, kv_dtype);
}

}  // namespace penstock
