// The plain reference: every operation as its definition reads, sums in float64, one thread. What the fast
// back ends are tested against, and a way to run a model when their results are in doubt.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include "kernels/cpu/contract.h"
#include "kernels/cpu/fp8_rows.h"
#include "kernels/cpu/number.h"
#include "kernels/cpu/reference_cache.h"
#include "kernels/cpu/reference_latent.h"
#include "kernels/sampling.h"

namespace penstock {
namespace {

using namespace cpu;

class RowMatrix final : public Matrix {
 public:
  RowMatrix(Device& device, int64_t n, int64_t k, DType dtype) : tensor_(device.tensor(dtype, {n, k})) {}
  int64_t n() const override { return tensor_.view.dim(0); }
  int64_t k() const override { return tensor_.view.dim(1); }
  size_t bytes() const override { return tensor_.view.bytes(); }
  const TensorView& view() const { return tensor_.view; }

 private:
  Tensor tensor_;
};

/// K in a cache of two-byte elements is float16: see kv_layout.h.
DType key_dtype(const KvCacheView& cache) {
  return cache.dtype == DType::bf16 ? DType::f16 : cache.dtype;
}

/// Inside a block of the reference's cache: [K or V][G][position], each a vector of d.
struct CacheAt {
  const KvCacheView& cache;
  const BatchView& batch;

  char* vector(int64_t row, int64_t position, bool value, int64_t kv_head) const {
    const int64_t block = batch.block_table_RB[row * batch.table_stride + position / cache.block_size];
    const int64_t head = (block * 2 + (value ? 1 : 0)) * cache.kv_heads + kv_head;
    return static_cast<char*>(cache.data) + (head * cache.block_size + position % cache.block_size) *
                                                kv_vector_bytes(cache.head_dim, cache.dtype);
  }
};

void normalise(std::vector<float>& head_d, const TensorView& weight_d, float eps) {
  if (weight_d.data == nullptr) return;
  double sum = 0;
  for (const float x : head_d) sum += static_cast<double>(x) * static_cast<double>(x);
  const double scale = 1 / std::sqrt(sum / static_cast<double>(head_d.size()) + static_cast<double>(eps));
  for (size_t i = 0; i < head_d.size(); ++i)
    head_d[i] = static_cast<float>(static_cast<double>(head_d[i]) * scale) * weight_d.as<const float>()[i];
}

void rotate(std::vector<float>& head_d, const RotaryView& rotary, int64_t position) {
  const auto half = static_cast<size_t>(rotary.rotary_dim / 2);
  const float* cos_r = rotary.cos_sin_P2r.as<const float>() + position * rotary.rotary_dim;
  const float* sin_r = cos_r + half;
  for (size_t i = 0; i < half; ++i) {
    const float a = head_d[i];
    const float b = head_d[i + half];
    head_d[i] = a * cos_r[i] - b * sin_r[i];
    head_d[i + half] = b * cos_r[i] + a * sin_r[i];
  }
}

class ReferenceOps final : public Ops {
 public:
  explicit ReferenceOps(Device& device) : device_(device) {}

  std::string numerics() const override { return "reference-1"; }
  DType projection_dtype(DType) const override { return DType::f32; }

  std::unique_ptr<Matrix> make_matrix(int64_t n, int64_t k, DType dtype) override {
    return std::make_unique<RowMatrix>(device_, n, k, dtype);
  }

  void load_rows(Matrix& w, int64_t first_row, const TensorView& rows_rK) override {
    check_load_rows(w, first_row, rows_rK);
    const TensorView& to = dynamic_cast<RowMatrix&>(w).view();
    for (int64_t i = 0; i < rows_rK.shape.elements(); ++i)
      write(to.data, to.dtype, first_row * w.k() + i, read(rows_rK.data, rows_rK.dtype, i));
  }

  std::unique_ptr<Matrix> make_fp8_matrix(int64_t n, int64_t k, DType dtype) override {
    return make_matrix(n, k, dtype);
  }
  void load_fp8_rows(Matrix& w, int64_t first_row, const TensorView& rows_rK,
                     const TensorView& scales_rB) override {
    check_load_fp8_rows(w, first_row, rows_rK, scales_rB);
    std::vector<float> values = cpu::dequantized(rows_rK, scales_rB);
    load_rows(w, first_row, {values.data(), DType::f32, rows_rK.shape});
  }

  void embed(TensorView x_TD, const int32_t* ids_T, TensorView table_VD) override {
    check_embed(x_TD, table_VD);
    const int64_t d = x_TD.dim(1);
    for (int64_t t = 0; t < x_TD.dim(0); ++t)
      for (int64_t i = 0; i < d; ++i)
        x_TD.as<float>()[t * d + i] = read(table_VD.data, table_VD.dtype, ids_T[t] * d + i);
  }

  void rms_norm(TensorView y_TD, TensorView x_TD, TensorView weight_D, float eps) override {
    check_rms_norm(y_TD, x_TD, weight_D);
    const int64_t d = x_TD.dim(1);
    for (int64_t t = 0; t < x_TD.dim(0); ++t) {
      const float* x_D = x_TD.as<const float>() + t * d;
      std::vector<float> row(x_D, x_D + d);
      normalise(row, weight_D, eps);
      for (int64_t i = 0; i < d; ++i) write(y_TD.data, y_TD.dtype, t * d + i, row[static_cast<size_t>(i)]);
    }
  }

  void matmul(TensorView y_TN, TensorView x_TK, const Matrix& w_NK, TensorView bias_N, Into into) override {
    const TensorView& w = dynamic_cast<const RowMatrix&>(w_NK).view();
    const auto [m, n, k] = check_matmul(y_TN, x_TK, w_NK, w.dtype, bias_N);
    for (int64_t t = 0; t < m; ++t)
      for (int64_t j = 0; j < n; ++j) {
        double sum = 0;
        for (int64_t i = 0; i < k; ++i)
          sum += static_cast<double>(read(x_TK.data, x_TK.dtype, t * k + i)) *
                 static_cast<double>(read(w.data, w.dtype, j * k + i));
        if (bias_N.data != nullptr) sum += static_cast<double>(bias_N.as<const float>()[j]);
        if (into == Into::add) sum += static_cast<double>(read(y_TN.data, y_TN.dtype, t * n + j));
        write(y_TN.data, y_TN.dtype, t * n + j, static_cast<float>(sum));
      }
  }

  void rope_and_store(TensorView q_THd, KvCacheView cache, TensorView qkv_TN, const RotaryView& rotary,
                      const BatchView& batch) override {
    const auto [h, g, d] = check_rope(q_THd, cache, qkv_TN, rotary, batch);
    const CacheAt at{cache, batch};
    std::vector<float> head_d(static_cast<size_t>(d));
    for (int64_t t = 0; t < batch.tokens; ++t) {
      const int64_t position = batch.positions_T[t];
      for (int64_t j = 0; j < h + 2 * g; ++j) {
        for (int64_t i = 0; i < d; ++i)
          head_d[static_cast<size_t>(i)] = read(qkv_TN.data, qkv_TN.dtype, (t * (h + 2 * g) + j) * d + i);
        const bool is_query = j < h;
        const bool is_value = j >= h + g;
        if (!is_value) {
          normalise(head_d, is_query ? rotary.q_norm_d : rotary.k_norm_d, rotary.norm_eps);
          rotate(head_d, rotary, position);
        }
        if (is_query)
          for (int64_t i = 0; i < d; ++i)
            write(q_THd.data, q_THd.dtype, (t * h + j) * d + i, head_d[static_cast<size_t>(i)]);
        else
          write_vector(at.vector(batch.row_of_T[t], position, is_value, (j - h) % g),
                       is_value ? cache.dtype : key_dtype(cache), head_d);
      }
    }
  }

  void attention(TensorView out_THd, TensorView q_THd, KvCacheView cache, const BatchView& batch,
                 float scale) override {
    const auto [h, g, d] = check_attention(out_THd, q_THd, cache, batch);
    const CacheAt at{cache, batch};
    for (int64_t t = 0; t < batch.tokens; ++t) {
      const int64_t row = batch.row_of_T[t];
      const int64_t seen = batch.positions_T[t] + 1;
      for (int64_t j = 0; j < h; ++j) {
        const int64_t kv_head = j / (h / g);
        std::vector<double> p_P(static_cast<size_t>(seen));
        double largest = -std::numeric_limits<double>::infinity();
        for (int64_t p = 0; p < seen; ++p) {
          const std::vector<double> key_d =
              read_vector(at.vector(row, p, false, kv_head), key_dtype(cache), d);
          double dot = 0;
          for (int64_t i = 0; i < d; ++i)
            dot += static_cast<double>(read(q_THd.data, q_THd.dtype, (t * h + j) * d + i)) *
                   key_d[static_cast<size_t>(i)];
          p_P[static_cast<size_t>(p)] = dot * static_cast<double>(scale);
          largest = std::max(largest, p_P[static_cast<size_t>(p)]);
        }
        double sum = 0;
        for (double& p : p_P) sum += p = std::exp(p - largest);
        std::vector<double> out_d(static_cast<size_t>(d));
        for (int64_t p = 0; p < seen; ++p) {
          const std::vector<double> value_d = read_vector(at.vector(row, p, true, kv_head), cache.dtype, d);
          for (size_t i = 0; i < out_d.size(); ++i) out_d[i] += p_P[static_cast<size_t>(p)] * value_d[i];
        }
        for (int64_t i = 0; i < d; ++i)
          write(out_THd.data, out_THd.dtype, (t * h + j) * d + i,
                static_cast<float>(out_d[static_cast<size_t>(i)] / sum));
      }
    }
  }

  void latent_rope_and_store(TensorView q_THd, TensorView plain_THn, LatentCacheView cache, TensorView q_THe,
                             TensorView latent_TL, const LatentRotaryView& rotary,
                             const BatchView& batch) override {
    const LatentShape shape = check_latent_rope(q_THd, plain_THn, cache, q_THe, latent_TL, rotary, batch);
    reference_latent_rope_and_store(shape, q_THd, plain_THn, cache, q_THe, latent_TL, rotary, batch);
  }

  void latent_attention(TensorView out_THL, TensorView q_THd, LatentCacheView cache, const BatchView& batch,
                        float scale) override {
    const LatentShape shape = check_latent_attention(out_THL, q_THd, cache, batch);
    reference_latent_attention(shape, out_THL, q_THd, cache, batch, scale);
  }

  void matmul_by_head(TensorView y_THy, TensorView x_THK, std::span<const Matrix* const> w_HNK) override {
    const DType dtype = dynamic_cast<const RowMatrix&>(*w_HNK[0]).view().dtype;
    const auto [m, n, k, y_width] = check_matmul_by_head(y_THy, x_THK, w_HNK, dtype);
    const auto heads = static_cast<int64_t>(w_HNK.size());
    for (int64_t t = 0; t < m * heads; ++t) {
      const TensorView& w = dynamic_cast<const RowMatrix&>(*w_HNK[static_cast<size_t>(t % heads)]).view();
      for (int64_t j = 0; j < n; ++j) {
        double sum = 0;
        for (int64_t i = 0; i < k; ++i)
          sum += static_cast<double>(read(x_THK.data, x_THK.dtype, t * k + i)) *
                 static_cast<double>(read(w.data, w.dtype, j * k + i));
        write(y_THy.data, y_THy.dtype, t * y_width + j, static_cast<float>(sum));
      }
    }
  }

  void route(const RoutingView& routing, TensorView logits_TE, const GateView& gate) override {
    check_route(routing, logits_TE, gate);
    reference_route(routing, logits_TE, gate);
  }

  void matmul_by_expert(TensorView y_SN, TensorView x_SK, std::span<const Matrix* const> w_ENK,
                        const RoutingView& routing) override {
    check_matmul_by_expert(y_SN, x_SK, w_ENK, routing);
    check_chosen_experts(w_ENK, routing);
    routing.for_each_expert([&](int64_t e, int64_t first, int64_t count) {
      matmul(y_SN.rows(first, count), x_SK.rows(first, count), *w_ENK[static_cast<size_t>(e)], {},
             Into::overwrite);
    });
  }

  void combine_experts(TensorView x_TD, TensorView y_SD, const RoutingView& routing) override {
    check_combine_experts(x_TD, y_SD, routing);
    reference_combine(x_TD, y_SD, routing);
  }

  void swiglu(TensorView y_TF, TensorView gate_up_T2F) override {
    check_swiglu(y_TF, gate_up_T2F);
    const int64_t f = y_TF.dim(1);
    for (int64_t t = 0; t < y_TF.dim(0); ++t)
      for (int64_t i = 0; i < f; ++i) {
        const double gate = static_cast<double>(read(gate_up_T2F.data, gate_up_T2F.dtype, t * 2 * f + i));
        const double up = static_cast<double>(read(gate_up_T2F.data, gate_up_T2F.dtype, t * 2 * f + f + i));
        write(y_TF.data, y_TF.dtype, t * f + i, static_cast<float>(gate / (1 + std::exp(-gate)) * up));
      }
  }

  void gather_rows(TensorView y_RD, TensorView x_TD, const int32_t* rows_R) override {
    check_gather_rows(y_RD, x_TD);
    const size_t row = static_cast<size_t>(y_RD.dim(1)) * bytes_of(y_RD.dtype);
    for (int64_t r = 0; r < y_RD.dim(0); ++r)
      std::memcpy(y_RD.as<char>() + static_cast<size_t>(r) * row,
                  x_TD.as<const char>() + static_cast<size_t>(rows_R[r]) * row, row);
  }

  std::vector<Sampled> sample(TensorView logits_RV, std::span<const SampleParams> params_R) override {
    check_sample(logits_RV, params_R.size());
    const auto v = static_cast<size_t>(logits_RV.dim(1));
    std::vector<Sampled> result;
    for (size_t r = 0; r < params_R.size(); ++r)
      result.push_back(sample_row_reference({logits_RV.as<const float>() + r * v, v}, params_R[r]));
    return result;
  }

  std::vector<Sampled> score(TensorView logits_RV, std::span<const ScoreParams> params_R) override {
    check_sample(logits_RV, params_R.size());
    const auto v = static_cast<size_t>(logits_RV.dim(1));
    std::vector<Sampled> result;
    for (size_t r = 0; r < params_R.size(); ++r)
      result.push_back(score_row_reference({logits_RV.as<const float>() + r * v, v}, params_R[r]));
    return result;
  }

 private:
  Device& device_;
};

}  // namespace

std::unique_ptr<Ops> make_reference_ops(Device& device) {
  return std::make_unique<ReferenceOps>(device);
}

}  // namespace penstock
