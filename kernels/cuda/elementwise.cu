#include "kernels/cuda/common.cuh"
#include "kernels/cuda/elementwise.h"
#include "kernels/cuda/overlap.cuh"
#include "kernels/cuda/silu.cuh"

namespace penstock::cuda {
namespace {

constexpr int kThreads = 256;

/// Four neighbours at once where the width allows: 16-byte accesses for f32, 8-byte ones for bf16.
template <class T>
struct alignas(4 * sizeof(T)) Four {
  T v[4];
};

template <class T>
__device__ Four<float> load_four(const T* from) {
  const auto four = *reinterpret_cast<const Four<T>*>(from);
  return {widen(four.v[0]), widen(four.v[1]), widen(four.v[2]), widen(four.v[3])};
}

template <class T>
__device__ void store_four(T* to, const Four<float>& x) {
  Four<T> four;
  for (int i = 0; i < 4; ++i) put(four.v[i], x.v[i]);
  *reinterpret_cast<Four<T>*>(to) = four;
}

/// y[row] = f(x[rows[row]]) for rows of `width` values.
template <class From, class To>
__global__ void copy_rows(To* y, const From* x, const int32_t* rows, int64_t width) {
  const From* from = x + static_cast<int64_t>(rows[blockIdx.x]) * width;
  To* to = y + static_cast<int64_t>(blockIdx.x) * width;
  if (width % 4 == 0)
    for (int64_t i = 4 * threadIdx.x; i < width; i += 4 * kThreads) store_four(to + i, load_four(from + i));
  else
    for (int64_t i = threadIdx.x; i < width; i += kThreads) put(to[i], widen(from[i]));
}

/// Thread t adds up fours t, t + kThreads, ...: the order of the sum depends on the width only. kHeld fours
/// of x and of the weight stay in registers, the weight's from before the kernel that writes x has ended; a
/// width that needs more, or is no multiple of 4, has kHeld = 0 and is read twice.
template <int kHeld, class T>
__global__ void rms_norm_row(T* y_TD, const float* x_TD, const float* weight_D, int64_t width, float eps) {
  __shared__ float shared[kThreads / kWarp];
  const float* x_D = x_TD + blockIdx.x * width;
  T* y_D = y_TD + blockIdx.x * width;
  [[maybe_unused]] Four<float> x_held[kHeld > 0 ? kHeld : 1], weight_held[kHeld > 0 ? kHeld : 1];
  const auto for_held = [&](auto f) {
#pragma unroll
    for (int h = 0; h < kHeld; ++h)
      if (const int64_t i = 4 * (h * kThreads + static_cast<int64_t>(threadIdx.x)); i < width) f(h, i);
  };
  let_next_start();
  for_held([&](int h, int64_t i) { weight_held[h] = load_four(weight_D + i); });
  wait_for_previous();
  for_held([&](int h, int64_t i) { x_held[h] = load_four(x_D + i); });

  float sum = 0;
  const auto add = [&](const Four<float>& x) {
    for (int j = 0; j < 4; ++j) sum = fmaf(x.v[j], x.v[j], sum);
  };
  if constexpr (kHeld > 0)
    for_held([&](int h, int64_t) { add(x_held[h]); });
  else if (width % 4 == 0)
    for (int64_t i = 4 * threadIdx.x; i < width; i += 4 * kThreads) add(load_four(x_D + i));
  else
    for (int64_t i = threadIdx.x; i < width; i += kThreads) sum = fmaf(x_D[i], x_D[i], sum);
  const float scale = 1.0F / sqrtf(block_sum<kThreads>(sum, shared) / static_cast<float>(width) + eps);
  const auto write = [&](int64_t i, Four<float> x, const Four<float>& weight) {
    for (int j = 0; j < 4; ++j) x.v[j] = x.v[j] * scale * weight.v[j];
    store_four(y_D + i, x);
  };
  if constexpr (kHeld > 0)
    for_held([&](int h, int64_t i) { write(i, x_held[h], weight_held[h]); });
  else if (width % 4 == 0)
    for (int64_t i = 4 * threadIdx.x; i < width; i += 4 * kThreads)
      write(i, load_four(x_D + i), load_four(weight_D + i));
  else
    for (int64_t i = threadIdx.x; i < width; i += kThreads) put(y_D[i], x_D[i] * scale * weight_D[i]);
}

template <class To, class From>
__global__ void swiglu_row(To* y_TF, const From* gate_up_T2F, int64_t width) {
  let_next_start();
  wait_for_previous();
  const From* gate_F = gate_up_T2F + static_cast<int64_t>(blockIdx.x) * 2 * width;
  const From* up_F = gate_F + width;
  To* y_F = y_TF + static_cast<int64_t>(blockIdx.x) * width;
  const int64_t thread = static_cast<int64_t>(blockIdx.y) * kThreads + threadIdx.x;
  const int64_t threads = static_cast<int64_t>(gridDim.y) * kThreads;
  if (width % 4 == 0) {
    for (int64_t i = 4 * thread; i < width; i += 4 * threads) {
      const Four<float> gate = load_four(gate_F + i);
      Four<float> y = load_four(up_F + i);
      for (int j = 0; j < 4; ++j) y.v[j] = silu_times(gate.v[j], y.v[j]);
      store_four(y_F + i, y);
    }
  } else {
    for (int64_t i = thread; i < width; i += threads)
      put(y_F[i], silu_times(widen(gate_F[i]), widen(up_F[i])));
  }
}

__global__ void round_values(__nv_bfloat16* to, const float* from, int64_t count) {
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x; i < count;
       i += static_cast<int64_t>(gridDim.x) * kThreads)
    put(to[i], from[i]);
}

/// The finaliser of SplitMix64 (Steele et al. 2014) over the index.
template <class T>
__global__ void random_values(T* x, int64_t count) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (i >= count) return;
  uint64_t bits = static_cast<uint64_t>(i + 1) * 0x9E3779B97F4A7C15ULL;
  bits = (bits ^ (bits >> 30)) * 0xBF58476D1CE4E5B9ULL;
  bits = (bits ^ (bits >> 27)) * 0x94D049BB133111EBULL;
  put(x[i], static_cast<float>(static_cast<int32_t>(bits >> 32)) * 0x1p-31F);
}

__global__ void find_difference(const uint16_t* a, const uint16_t* b, int64_t count, int* differs) {
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x; i < count;
       i += static_cast<int64_t>(gridDim.x) * kThreads)
    if (a[i] != b[i]) *differs = 1;
}

unsigned rows_of(const TensorView& t) {
  return static_cast<unsigned>(t.dim(0));
}

}  // namespace

void embed(cudaStream_t stream, TensorView x_TD, const int32_t* ids_T, TensorView table_VD) {
  if (x_TD.dim(0) == 0) return;
  if (table_VD.dtype == DType::f16)
    copy_rows<<<rows_of(x_TD), kThreads, 0, stream>>>(x_TD.as<float>(), table_VD.as<const __half>(), ids_T,
                                                      x_TD.dim(1));
  else
    with_type(table_VD.dtype, [&](auto type) {
      copy_rows<<<rows_of(x_TD), kThreads, 0, stream>>>(x_TD.as<float>(), table_VD.as<const decltype(type)>(),
                                                        ids_T, x_TD.dim(1));
    });
  check_launch("embed");
}

void gather_rows(cudaStream_t stream, TensorView y_RD, TensorView x_TD, const int32_t* rows_R) {
  if (y_RD.dim(0) == 0) return;
  with_type(x_TD.dtype, [&](auto type) {
    using T = decltype(type);
    copy_rows<<<rows_of(y_RD), kThreads, 0, stream>>>(y_RD.as<T>(), x_TD.as<const T>(), rows_R, y_RD.dim(1));
  });
  check_launch("gather_rows");
}

void rms_norm(cudaStream_t stream, TensorView y_TD, TensorView x_TD, TensorView weight_D, float eps) {
  if (x_TD.dim(0) == 0) return;
  const int64_t width = x_TD.dim(1);
  with_type(y_TD.dtype, [&](auto type) {
    using T = decltype(type);
    auto kernel = rms_norm_row<0, T>;
    if (width % 4 == 0 && width <= 4 * 4 * kThreads)
      kernel = rms_norm_row<4, T>;
    else if (width % 4 == 0 && width <= 8 * 4 * kThreads)
      kernel = rms_norm_row<8, T>;
    launch_overlapped("rms_norm", stream, kernel, rows_of(x_TD), kThreads, 0, y_TD.as<T>(),
                      x_TD.as<const float>(), weight_D.as<const float>(), width, eps);
  });
}

void swiglu(cudaStream_t stream, TensorView y_TF, TensorView gate_up_T2F) {
  if (y_TF.dim(0) == 0) return;
  const int64_t width = y_TF.dim(1);
  const dim3 grid(rows_of(y_TF), static_cast<unsigned>((width + 4 * kThreads - 1) / (4 * kThreads)));
  with_type(y_TF.dtype, [&](auto to) {
    with_type(gate_up_T2F.dtype, [&](auto from) {
      using To = decltype(to);
      using From = decltype(from);
      launch_overlapped("swiglu", stream, swiglu_row<To, From>, grid, kThreads, 0, y_TF.as<To>(),
                        gate_up_T2F.as<const From>(), width);
    });
  });
}

void round_to_bf16(cudaStream_t stream, void* to_bf16, const float* from, int64_t count) {
  const auto blocks = static_cast<unsigned>((count + kThreads - 1) / kThreads);
  if (blocks == 0) return;
  round_values<<<blocks, kThreads, 0, stream>>>(static_cast<__nv_bfloat16*>(to_bf16), from, count);
  check_launch("round_to_bf16");
}

void fill_random(cudaStream_t stream, TensorView x) {
  const int64_t count = x.shape.elements();
  with_type(x.dtype, [&](auto type) {
    random_values<<<static_cast<unsigned>((count + kThreads - 1) / kThreads), kThreads, 0, stream>>>(
        x.as<decltype(type)>(), count);
  });
  check_launch("fill_random");
}

bool same_bits(CudaDevice& device, const TensorView& differs, const void* a, const void* b, size_t bytes) {
  check(cudaMemsetAsync(differs.data, 0, sizeof(int), device.stream()), "clear memory");
  find_difference<<<1024, kThreads, 0, device.stream()>>>(static_cast<const uint16_t*>(a),
                                                          static_cast<const uint16_t*>(b),
                                                          static_cast<int64_t>(bytes / 2), differs.as<int>());
  check_launch("same_bits");
  int found = 0;
  device.download(&found, differs.data, sizeof found);
  return found == 0;
}

}  // namespace penstock::cuda
