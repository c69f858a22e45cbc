// C++ types of the paged cache's values, by its dtype.
#pragma once

#include "kernels/cuda/cache_codes.cuh"

namespace penstock::cuda {

/// float32 as it is.
struct WideCache {
  using Key = float;
  using Value = float;
  static constexpr bool kScaled = false;
};
/// Two bytes a value, with K as float16, because of all that is rounded K moves a log-probability most
/// (docs/architecture.md, "Numbers").
struct NarrowCache {
  using Key = __half;
  using Value = __nv_bfloat16;
  static constexpr bool kScaled = false;
};
/// One byte a value, Code being E4m3 or Int8.
template <class Code>
struct CodeCache {
  using Key = Code;
  using Value = Code;
  static constexpr bool kScaled = true;
};

/// Calls f(C()) with C the C++ types of a cache of this dtype.
template <class F>
void with_cache_type(DType dtype, F f) {
  switch (dtype) {
    case DType::bf16:
      return f(NarrowCache());
    case DType::e4m3:
      return f(CodeCache<E4m3>());
    case DType::i8:
      return f(CodeCache<Int8>());
    default:
      return f(WideCache());
  }
}

}  // namespace penstock::cuda
