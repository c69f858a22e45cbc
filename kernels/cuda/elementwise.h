// Launchers of the operations that work row by row: shapes and meaning as in kernels/ops.h. All are
// asynchronous.
#pragma once

#include <cuda_runtime_api.h>

#include "runtime/device/cuda_device.h"

namespace penstock::cuda {

void embed(cudaStream_t stream, TensorView x_TD, const int32_t* ids_T, TensorView table_VD);
/// One block a row: the order of its sum depends on D only.
void rms_norm(cudaStream_t stream, TensorView y_TD, TensorView x_TD, TensorView weight_D, float eps);
void swiglu(cudaStream_t stream, TensorView y_TF, TensorView gate_up_T2F);
void gather_rows(cudaStream_t stream, TensorView y_RD, TensorView x_TD, const int32_t* rows_R);
/// Rounds `count` float32 values to bfloat16, to nearest even.
void round_to_bf16(cudaStream_t stream, void* to_bf16, const float* from, int64_t count);

/// Small numbers of either sign that depend on their place only.
void fill_random(cudaStream_t stream, TensorView x);
/// Whether two areas of device memory are equal, byte for byte. `bytes` is a multiple of 2, `differs` is room
/// for one int32 on the device. Waits for the device.
bool same_bits(CudaDevice& device, const TensorView& differs, const void* a, const void* b, size_t bytes);

}  // namespace penstock::cuda
