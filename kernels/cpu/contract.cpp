#include "kernels/cpu/contract.h"

#include <algorithm>

#include "runtime/model/kv_cache.h"

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
  if (!is_kv_dtype(cache.dtype) || cache.head_dim <= 0 || cache.head_dim % 2 != 0 || cache.kv_heads <= 0 ||
      cache.block_size <= 0)
    breach(operation, "a dtype of KV caches, G and block size above 0, an even head size",
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

namespace {

void check_latent_cache(const char* operation, const LatentCacheView& cache) {
  if (!is_kv_dtype(cache.dtype) || cache.latent_dim <= 0 || cache.rope_dim <= 0 || cache.rope_dim % 2 != 0 ||
      cache.block_size <= 0)
    breach(operation, "a dtype of KV caches, a latent, an even rotated part, a block size above 0",
           std::string(name_of(cache.dtype)) + " " +
               Shape{cache.latent_dim, cache.rope_dim, cache.block_size}.text());
}

void require_heads(const char* operation, const TensorView& t, int64_t tokens, int64_t heads, int64_t width) {
  if (t.shape != Shape{tokens, heads, width}) breach(operation, Shape{tokens, heads, width}.text(), text(t));
}

}  // namespace

LatentShape check_latent_rope(const TensorView& q_THd, const TensorView& plain_THn,
                              const LatentCacheView& cache, const TensorView& q_THe,
                              const TensorView& latent_TL, const LatentRotaryView& rotary,
                              const BatchView& batch) {
  check_latent_cache("latent rope cache", cache);
  const int64_t l = cache.latent_dim;
  const int64_t r = cache.rope_dim;
  if (plain_THn.shape.rank() != 3) breach("latent rope plain part", "three dimensions", text(plain_THn));
  const int64_t h = plain_THn.dim(1);
  const int64_t n = plain_THn.dim(2);
  require_heads("latent rope plain part", plain_THn, batch.tokens, h, n);
  require_heads("latent rope output", q_THd, batch.tokens, h, l + r);
  require_heads("latent rope query", q_THe, batch.tokens, h, n + r);
  require_rows("latent rope latent", latent_TL, batch.tokens, l + r);
  require_float_or_bf16("latent rope plain part", plain_THn);
  for (const TensorView* t : {&q_THd, &q_THe, &latent_TL})
    if (t->dtype != DType::f32) breach("latent rope", "float32", text(*t));
  require_f32_vector("latent rope norm", rotary.norm_L, l);
  const TensorView& table = rotary.cos_sin_P2r;
  if (table.dtype != DType::f32 || table.shape.rank() != 2 || table.dim(1) != r)
    breach("latent rope table", "float32, width " + std::to_string(r), text(table));
  return {h, n, l, r};
}

LatentShape check_latent_attention(const TensorView& out_THL, const TensorView& q_THd,
                                   const LatentCacheView& cache, const BatchView& batch) {
  check_latent_cache("latent attention cache", cache);
  if (q_THd.shape.rank() != 3 || q_THd.dtype != DType::f32)
    breach("latent attention query", "float32 in three dimensions", text(q_THd));
  const int64_t h = q_THd.dim(1);
  require_heads("latent attention query", q_THd, batch.tokens, h, cache.latent_dim + cache.rope_dim);
  require_heads("latent attention output", out_THL, batch.tokens, h, cache.latent_dim);
  require_float_or_bf16("latent attention output", out_THL);
  return {h, 0, cache.latent_dim, cache.rope_dim};
}

HeadMatmulShape check_matmul_by_head(const TensorView& y_THy, const TensorView& x_THK,
                                     std::span<const Matrix* const> w_HNK, DType weight_dtype) {
  if (w_HNK.empty() || x_THK.shape.rank() != 3 || y_THy.shape.rank() != 3)
    breach("matmul_by_head", "heads", text(x_THK) + " and " + text(y_THy));
  const int64_t n = w_HNK[0]->n();
  const int64_t k = w_HNK[0]->k();
  for (const Matrix* w : w_HNK)
    if (w->n() != n || w->k() != k)
      breach("matmul_by_head weights", Shape{n, k}.text(), Shape{w->n(), w->k()}.text());
  const auto heads = static_cast<int64_t>(w_HNK.size());
  require_heads("matmul_by_head input", x_THK, x_THK.dim(0), heads, k);
  require_heads("matmul_by_head output", y_THy, x_THK.dim(0), heads, std::max(n, y_THy.dim(2)));
  if (x_THK.dtype != weight_dtype) breach("matmul_by_head input", name_of(weight_dtype), text(x_THK));
  require_float_or_bf16("matmul_by_head output", y_THy);
  return {x_THK.dim(0), n, k, y_THy.dim(2)};
}

void check_route(const RoutingView& routing, const TensorView& logits_TE, const GateView& gate) {
  require_rows("route logits", logits_TE, routing.tokens, routing.experts);
  if (logits_TE.dtype != DType::f32) breach("route logits", "float32", text(logits_TE));
  const int64_t groups = gate.groups;
  if (groups < 1 || routing.experts % groups != 0 || gate.groups_kept < 1 || gate.groups_kept > groups ||
      routing.chosen < 1 || routing.chosen > gate.groups_kept * (routing.experts / groups))
    breach("route", "as many experts in the kept groups as are chosen",
           Shape{routing.experts, groups, gate.groups_kept, routing.chosen}.text());
  if (gate.correction_E.data != nullptr)
    require_f32_vector("route correction", gate.correction_E, routing.experts);
}

void check_matmul_by_expert(const TensorView& y_SN, const TensorView& x_SK,
                            std::span<const Matrix* const> w_ENK, const RoutingView& routing) {
  if (static_cast<int64_t>(w_ENK.size()) != routing.experts)
    breach("matmul_by_expert", std::to_string(routing.experts) + " weights", std::to_string(w_ENK.size()));
  if (x_SK.shape.rank() != 2 || x_SK.dim(0) != routing.tokens * routing.chosen)
    breach("matmul_by_expert input", std::to_string(routing.tokens * routing.chosen) + " rows", text(x_SK));
  require_rows("matmul_by_expert output", y_SN, x_SK.dim(0), y_SN.dim(1));
  require_float_or_bf16("matmul_by_expert output", y_SN);
}

void check_chosen_experts(std::span<const Matrix* const> w_ENK, const RoutingView& routing) {
  routing.for_each_expert([&](int64_t e, int64_t, int64_t) {
    if (w_ENK[static_cast<size_t>(e)] == nullptr)
      breach("matmul_by_expert", "the weight of expert " + std::to_string(e), "none");
  });
}

void check_combine_experts(const TensorView& x_TD, const TensorView& y_SD, const RoutingView& routing) {
  if (x_TD.shape.rank() != 2 || x_TD.dtype != DType::f32 || y_SD.dtype != DType::f32)
    breach("combine_experts", "float32 rows", text(x_TD) + " and " + text(y_SD));
  require_rows("combine_experts output", x_TD, routing.tokens, x_TD.dim(1));
  require_rows("combine_experts input", y_SD, routing.tokens * routing.chosen, x_TD.dim(1));
}

void check_load_rows(const Matrix& w, int64_t first_row, const TensorView& rows_rK) {
  if (rows_rK.shape.rank() != 2 || rows_rK.dim(1) != w.k() || bytes_of(rows_rK.dtype) == 1 ||
      rows_rK.dtype == DType::i32 || first_row < 0 || first_row + rows_rK.dim(0) > w.n())
    breach("load_rows", "rows of " + Shape{w.n(), w.k()}.text(),
           text(rows_rK) + " at row " + std::to_string(first_row));
}

void check_load_fp8_rows(const Matrix& w, int64_t first_row, const TensorView& rows_rK,
                         const TensorView& scales_rB) {
  if (rows_rK.shape.rank() != 2 || rows_rK.dtype != DType::e4m3 || rows_rK.dim(1) != w.k() || first_row < 0 ||
      first_row + rows_rK.dim(0) > w.n())
    breach("load_fp8_rows", "e4m3 rows of " + Shape{w.n(), w.k()}.text(),
           text(rows_rK) + " at row " + std::to_string(first_row));
  require_rows("load_fp8_rows scales", scales_rB, rows_rK.dim(0), (w.k() + kFp8Columns - 1) / kFp8Columns);
  if (scales_rB.dtype != DType::f32) breach("load_fp8_rows scales", "float32", text(scales_rB));
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
