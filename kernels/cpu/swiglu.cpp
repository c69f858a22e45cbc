#include "kernels/cpu/rows.h"

namespace penstock::cpu {

void swiglu(const KernelTable& kernels, Team& team, const TensorView& y_TF, const TensorView& gate_up_T2F) {
  const int64_t f = y_TF.dim(1);
  const auto over_rows = [&](auto kernel, auto* y, const auto* gate_up) {
    team.share(y_TF.dim(0), 1, [&](int, int64_t begin, int64_t end) {
      for (int64_t t = begin; t < end; ++t)
        kernel(y + t * f, gate_up + t * 2 * f, gate_up + t * 2 * f + f, f);
    });
  };
  const bool to_bf16 = y_TF.dtype == DType::bf16;
  if (gate_up_T2F.dtype == DType::bf16) {
    const auto* from = gate_up_T2F.as<const uint16_t>();
    if (to_bf16)
      over_rows(kernels.swiglu_bf16_bf16, y_TF.as<uint16_t>(), from);
    else
      over_rows(kernels.swiglu_bf16_f32, y_TF.as<float>(), from);
  } else {
    const auto* from = gate_up_T2F.as<const float>();
    if (to_bf16)
      over_rows(kernels.swiglu_f32_bf16, y_TF.as<uint16_t>(), from);
    else
      over_rows(kernels.swiglu_f32_f32, y_TF.as<float>(), from);
  }
}

}  // namespace penstock::cpu
