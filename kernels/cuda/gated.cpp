#include "kernels/cuda/gated.h"

#include "kernels/cuda/elementwise.h"
#include "kernels/cuda/gated_hopper.h"
#include "kernels/cuda/skinny.h"
#include "kernels/cuda/timing.h"

namespace penstock::cuda {
namespace {

constexpr int64_t kCheckedRows = 192;
constexpr int64_t kCheckedFewRows = 5;

}  // namespace

void GatedProducts::multiply(TensorView y_TF, TensorView gate_up_T2F, TensorView x_TK,
                             const DenseMatrix& w_2FK, TensorView bias_2F) {
  const int64_t m = y_TF.dim(0), f = y_TF.dim(1);
  if (m == 0) return;
  const bool served = gpu_.is_hopper && w_2FK.view().dtype == DType::bf16 && y_TF.dtype == DType::bf16 &&
                      gate_up_T2F.dtype == DType::f32 && bias_2F.data == nullptr &&
                      gated_hopper_serves(f, w_2FK.k());
  if (!served) {
    run_apart(y_TF, gate_up_T2F, x_TK, w_2FK, bias_2F);
    return;
  }
  const auto [choice, is_new] = choices_.try_emplace({f, w_2FK.k()});
  if (is_new) choice->second.same_bits = same_bits(w_2FK);
  if (!choice->second.same_bits) {
    run_apart(y_TF, gate_up_T2F, x_TK, w_2FK, {});
    return;
  }
  const auto [fused, is_new_range] = choice->second.fused_by_rows.try_emplace(range_end(m));
  if (is_new_range) fused->second = fused_is_faster(y_TF, gate_up_T2F, x_TK, w_2FK);
  if (fused->second)
    run_fused(y_TF, x_TK, w_2FK);
  else
    run_apart(y_TF, gate_up_T2F, x_TK, w_2FK, {});
}

void GatedProducts::run_apart(TensorView y_TF, TensorView gate_up_T2F, TensorView x_TK,
                              const DenseMatrix& w_2FK, TensorView bias_2F) {
  products_.multiply(gate_up_T2F, x_TK, w_2FK, bias_2F, Into::overwrite);
  swiglu(device_.stream(), y_TF, gate_up_T2F);
}

void GatedProducts::run_fused(TensorView y_TF, TensorView x_TK, const DenseMatrix& w_2FK) {
  const int64_t m = y_TF.dim(0), f = y_TF.dim(1), k = w_2FK.k();
  const void* const w = w_2FK.view().data;
  if (skinny_serves(m, 2 * f, k, DType::bf16))
    skinny_gated_product(device_.stream(), y_TF.data, x_TK.data, w, m, f, k);
  else
    gated_product(device_.stream(), y_TF.data, x_TK.data, w, m, f, k, device_.free_multiprocessors());
}

/// Of both fused kernels. False too where the workspace is too small to tell.
bool GatedProducts::same_bits(const DenseMatrix& w_2FK) {
  const int64_t f = w_2FK.n() / 2;
  auto* at = static_cast<char*>(workspace_.data);
  const auto take = [&](DType dtype, int64_t columns) {
    const TensorView taken{at, dtype, {kCheckedRows, columns}};
    at += (taken.bytes() + 255) / 256 * 256;
    return taken;
  };
  const TensorView x_TK = take(DType::bf16, w_2FK.k()), apart_TF = take(DType::bf16, f),
                   fused_TF = take(DType::bf16, f), gate_up_T2F = take(DType::f32, 2 * f);
  if (at > static_cast<char*>(workspace_.data) + workspace_.bytes) return false;
  for (int i = 0; i < 2; ++i) {  // the first time the product may choose its algorithm, in the workspace
    fill_random(device_.stream(), x_TK);
    run_apart(apart_TF, gate_up_T2F, x_TK, w_2FK, {});
  }
  for (const int64_t rows : {kCheckedRows, kCheckedFewRows}) {
    run_fused(fused_TF.first(rows), x_TK.first(rows), w_2FK);
    if (!cuda::same_bits(device_, differs_, apart_TF.data, fused_TF.data, fused_TF.first(rows).bytes()))
      return false;
  }
  return true;
}

bool GatedProducts::fused_is_faster(TensorView y_TF, TensorView gate_up_T2F, TensorView x_TK,
                                    const DenseMatrix& w_2FK) {
  const float fused = shortest_run(device_, workspace_, [&] {
    run_fused(y_TF, x_TK, w_2FK);
    return true;
  });
  return fused < shortest_run(
                     device_, workspace_,
                     [&] {
                       run_apart(y_TF, gate_up_T2F, x_TK, w_2FK, {});
                       return true;
                     });
}

}  // namespace penstock::cuda
