#include "kernels/cpu/contract.h"

#include <algorithm>

namespace penstock::cpu {
namespace {

std::string text(const TensorView& t) {
  return std::string(name_of(t.dtype)) + " " + t.shape.text();
}

[[noreturn]] void breach(const char* operation, const std::string& expected, const std::string& found) {
  throw Error(std::string("internal error: ") + operation + ": expected " + expected + ", found " + found);
}

void require_rows(const char* operation, const TensorView& t, int64_t rows, int64_t columns) {
  if (t.shape.rank() != 2 || t.dim(0) != rows || t.dim(1) != columns)
    breach(operation, Shape{rows, columns}.text(), text(t));
}

void require_f32_vector(const char* operation, const TensorView& t, int64_t length) {
  if (t.dtype != DType::f32 || t.shape.elements() != length)
    breach(operation, "float32 " + Shape{length}.text(), text(t));
}

void require_float_or_bf16(const char* operation, const TensorView& t) {
  if (t.dtype != DType::f32 && t.dtype != DType::bf16) breach(operation, "float32 or bfloat16", text(t));
}

void check_cache(const char* operation, const KvCacheView& cache) {
  if ((cache.dtype != DType::f32 && cache.dtype != DType::bf16) || cache.head_dim <= 0 ||
      cache.head_dim % 2 != 0 || cache.kv_heads <= 0 || cache.block_size <= 0)
    breach(operation, "float32 or bfloat16, G and block size above 0, an even head size",
           std::string(name_of(cache.dtype)) + " " +
               Shape{cache.kv_heads, cache.block_size, cache.head_dim}.text());
}

}  // namespace

MatmulShape check_matmul(const TensorView& y_TN, const TensorView& x_TK, const Matrix& w_NK,
                         DType weight_dtype, const TensorView& bias_N) {
  const Shape expected{x_TK.dim(0), w_NK.k()};
  if (x_TK.shape != expected || x_TK.dtype != weight_dtype)
    breach("matmul input", text({nullptr, weight_dtype, expected}), text(x_TK));
  require_rows("matmul output", y_TN, x_TK.dim(0), w_NK.n());
  require_float_or_bf16("matmul output", y_TN);
  if (bias_N.data != nullptr) require_f32_vector("matmul bias", bias_N, w_NK.n());
  return {x_TK.dim(0), w_NK.n(), w_NK.k()};
}

HeadShape check_rope(const TensorView& q_THd, const KvCacheView& cache, const TensorView& qkv_TN,
                     const RotaryView& rotary, const BatchView& batch) {
  const int64_t d = cache.head_dim;
  const int64_t g = cache.kv_heads;
  require_rows("rope input", qkv_TN, batch.tokens, qkv_TN.dim(1));
  require_float_or_bf16("rope input", qkv_TN);
  require_float_or_bf16("rope output", q_THd);
  const int64_t n = qkv_TN.dim(1);
  const int64_t h = n / d - 2 * g;
  if (n % d != 0 || h <= 0 || h % g != 0)
    breach("rope input", "a width of (H + 2G) d for G, d = " + Shape{g, d}.text(), text(qkv_TN));
  if (q_THd.shape.elements() != batch.tokens * h * d)
    breach("rope output", Shape{batch.tokens, h, d}.text(), text(q_THd));
  const int64_t r2 = rotary.rotary_dim;
  if (r2 < 0 || r2 % 2 != 0 || r2 > d)
    breach("rope rotary_dim", "an even number up to " + std::to_string(d), std::to_string(r2));
  const TensorView& table = rotary.cos_sin_P2r;
  if (table.dtype != DType::f32 || table.shape.rank() != 2 || table.dim(1) != r2)
    breach("rope table", "float32, width " + std::to_string(r2), text(table));
  if (rotary.q_norm_d.data != nullptr) require_f32_vector("rope q_norm", rotary.q_norm_d, d);
  if (rotary.k_norm_d.data != nullptr) require_f32_vector("rope k_norm", rotary.k_norm_d, d);
  check_cache("rope cache", cache);
  return {h, g, d};
}

HeadShape check_attention(const TensorView& out_THd, const TensorView& q_THd, const KvCacheView& cache,
                          const BatchView& batch) {
  check_cache("attention cache", cache);
  const int64_t d = cache.head_dim;
  const int64_t g = cache.kv_heads;
  const int64_t row = batch.tokens == 0 ? g * d : q_THd.shape.elements() / batch.tokens;
  const int64_t h = row / d;
  if (row % d != 0 || h <= 0 || h % g != 0 ||
      q_THd.shape.elements() % std::max<int64_t>(batch.tokens, 1) != 0)
    breach("attention query", "a width of H d for G, d = " + Shape{g, d}.text(), text(q_THd));
  if (out_THd.shape.elements() != q_THd.shape.elements())
    breach("attention output", text(q_THd), text(out_THd));
  require_float_or_bf16("attention query", q_THd);
  require_float_or_bf16("attention output", out_THd);
  return {h, g, d};
}

void check_load_rows(const Matrix& w, int64_t first_row, const TensorView& rows_rK) {
  if (rows_rK.shape.rank() != 2 || rows_rK.dim(1) != w.k() || rows_rK.dtype == DType::i32 || first_row < 0 ||
      first_row + rows_rK.dim(0) > w.n())
    breach("load_rows", "rows of " + Shape{w.n(), w.k()}.text(),
           text(rows_rK) + " at row " + std::to_string(first_row));
}

void check_embed(const TensorView& x_TD, const TensorView& table_VD) {
  if (x_TD.shape.rank() != 2 || table_VD.shape.rank() != 2 || x_TD.dim(1) != table_VD.dim(1) ||
      x_TD.dtype != DType::f32 || table_VD.dtype == DType::i32)
    breach("embed output", "float32 rows of the table " + text(table_VD), text(x_TD));
}

void check_rms_norm(const TensorView& y_TD, const TensorView& x_TD, const TensorView& weight_D) {
  if (x_TD.shape.rank() != 2 || x_TD.dtype != DType::f32)
    breach("rms_norm input", "float32 rows", text(x_TD));
  require_rows("rms_norm output", y_TD, x_TD.dim(0), x_TD.dim(1));
  require_float_or_bf16("rms_norm output", y_TD);
  require_f32_vector("rms_norm weight", weight_D, x_TD.dim(1));
}

void check_swiglu(const TensorView& y_TF, const TensorView& gate_up_T2F) {
  if (y_TF.shape.rank() != 2) breach("swiglu output", "two dimensions", text(y_TF));
  require_rows("swiglu input", gate_up_T2F, y_TF.dim(0), 2 * y_TF.dim(1));
  require_float_or_bf16("swiglu output", y_TF);
  require_float_or_bf16("swiglu input", gate_up_T2F);
}

void check_gather_rows(const TensorView& y_RD, const TensorView& x_TD) {
  if (x_TD.shape.rank() != 2 || y_RD.shape.rank() != 2 || y_RD.dim(1) != x_TD.dim(1) ||
      y_RD.dtype != x_TD.dtype)
    breach("gather_rows output", "rows of " + text(x_TD), text(y_RD));
}

void check_sample(const TensorView& logits_RV, size_t params) {
  if (logits_RV.shape.rank() != 2 || logits_RV.dtype != DType::f32 || logits_RV.dim(1) == 0 ||
      logits_RV.dim(0) != static_cast<int64_t>(params))
    breach("sample logits", "float32, " + std::to_string(params) + " rows", text(logits_RV));
}

}  // namespace penstock::cpu
