#include "kernels/cpu/rows.h"

namespace penstock::cpu {

void rms_norm(const KernelTable& kernels, Team& team, const TensorView& y_TD, const TensorView& x_TD,
              const TensorView& weight_D, float eps) {
  const int64_t d = x_TD.dim(1);
  const auto* weight = weight_D.as<const float>();
  team.share(x_TD.dim(0), kRowsAtOnce, [&](int, int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; ++t) {
      const float* x = x_TD.as<const float>() + t * d;
      if (y_TD.dtype == DType::bf16)
        kernels.rms_norm_bf16(y_TD.as<uint16_t>() + t * d, x, weight, d, eps);
      else
        kernels.rms_norm_f32(y_TD.as<float>() + t * d, x, weight, d, eps);
    }
  });
}

}  // namespace penstock::cpu
