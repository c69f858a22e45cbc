// Every operation a decoder needs, once, with its shapes. kernels/cpu/ and kernels/cuda/ implement it;
// no_cuda.cpp stands in for the second. All tensors live on the Device that the Ops was made for; calls run
// in order on the one thread that drives it.
//
// Contract (docs/architecture.md, "Numbers"): each row of a result depends on that row's inputs only, never
// on how many rows share the call. Sums over K run in one fixed order; attention walks the KV in fixed
// extents and combines them in order, the same for prefill and decode.
//
// Legend: T tokens of the micro-batch, R sequences in it, D hidden size, F intermediate size, V vocabulary,
// H query heads, G KV heads, d head size, N/K rows/columns of a weight, P positions. Latent attention: L
// width of the latent, r of the rotated part. Experts: E of them, C chosen by a token, S = T C pairs of token
// and expert.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "runtime/device/device.h"

namespace penstock {

/// Neighbours in a row of an FP8 weight that share a scale.
constexpr int64_t kFp8Columns = 128;

/// A weight in the layout this back end multiplies. Made by Ops::make_matrix, filled by Ops::load_rows.
class Matrix {
 public:
  virtual ~Matrix() = default;
  virtual int64_t n() const = 0;  ///< output features
  virtual int64_t k() const = 0;  ///< input features
  virtual size_t bytes() const = 0;
};

/// One layer's share of the paged KV cache. The back end chooses the arrangement inside a block; a block
/// holds `block_size` positions of K and V for every KV head of the layer.
struct KvCacheView {
  void* data = nullptr;
  DType dtype = DType::f32;
  int64_t blocks = 0;
  int64_t kv_heads = 0;    // G
  int64_t head_dim = 0;    // d
  int64_t block_size = 0;  // positions a block
};

/// One layer's share of a paged cache of latents: for each position L values from which the K and V of every
/// head follow, then the r values of the rotated key that all heads share. The arrangement is the back end's.
struct LatentCacheView {
  void* data = nullptr;
  DType dtype = DType::f32;
  int64_t blocks = 0;
  int64_t latent_dim = 0;  // L
  int64_t rope_dim = 0;    // r
  int64_t block_size = 0;  // positions a block
};

/// Where the tokens of a micro-batch belong. Arrays are device memory. Row r owns tokens
/// [row_start[r], row_start[r + 1]); its new tokens stand at positions context_R[r] - count ... context_R[r]
/// - 1.
struct BatchView {
  int64_t tokens = 0;                       // T
  int64_t rows = 0;                         // R
  const int32_t* positions_T = nullptr;     // position of each token in its own sequence
  const int32_t* row_of_T = nullptr;        // which row each token belongs to
  const int32_t* row_start_R1 = nullptr;    // R + 1 offsets into T
  const int32_t* context_R = nullptr;       // KV length of a row once this micro-batch's tokens are stored
  const int32_t* block_table_RB = nullptr;  // block numbers, row-major, `table_stride` a row
  int64_t table_stride = 0;                 // B
  int64_t max_context = 0;                  // largest context_R
};

/// How q and k are turned into what attention sees.
struct RotaryView {
  TensorView
      cos_sin_P2r;  // f32: for each position the r cosines, then the r sines (r = rotary_dim / 2), scaled
  int64_t rotary_dim = 0;  // leading part of each head that is rotated (rotate-half pairing: i with i + r)
  TensorView q_norm_d;     // optional per-head RMS norm weights (Qwen3), applied before rotation; f32
  TensorView k_norm_d;
  float norm_eps = 0;
};

/// How the latent and the rotated parts are turned into what latent attention sees.
struct LatentRotaryView {
  TensorView cos_sin_P2r;   // f32: for each position r / 2 cosines, then r / 2 sines, scaled
  bool interleave = false;  // pairs (2i, 2i + 1) of the rotated part, not (i, i + r / 2)
  TensorView norm_L;        // RMS norm weights of the latent; f32
  float norm_eps = 0;
};

/// How a token chooses its experts (DeepSeek-V2 and V3, 2024). Scores are the softmax or the sigmoids of the
/// logits. A group is worth its best score, or its two best together; of the `groups_kept` best groups the C
/// best experts are chosen, equal ones by lower number. Weights are the scores of the chosen experts, divided
/// by their sum if `normalise`, times `scale`.
struct GateView {
  bool sigmoid = false;
  int64_t groups = 1;  // divides E
  int64_t groups_kept = 1;
  bool two_best = false;
  TensorView correction_E;  // f32, may be empty: added to the scores for choosing only
  bool normalise = false;
  float scale = 1;
};

/// Which experts the tokens of a micro-batch go to: device memory, written by Ops::route. Pairs of token and
/// expert stand in the order of experts, those of one expert in the order of tokens.
struct RoutingView {
  float* weights_TC = nullptr;         // best expert first: the order in which results are combined
  int32_t* slot_TC = nullptr;          // where the pair stands among the S
  int32_t* token_S = nullptr;          // which token it is of
  int32_t* expert_start_E1 = nullptr;  // E + 1 offsets into S
  int64_t tokens = 0;                  // T
  int64_t chosen = 0;                  // C
  int64_t experts = 0;                 // E

  /// Bytes of all four arrays.
  static size_t bytes(int64_t tokens, int64_t chosen, int64_t experts) {
    return 4 * static_cast<size_t>(3 * tokens * chosen + experts + 1);
  }
  /// The four arrays one behind the other in `memory`.
  static RoutingView over(void* memory, int64_t tokens, int64_t chosen, int64_t experts) {
    const int64_t pairs = tokens * chosen;
    auto* const at = static_cast<int32_t*>(memory);
    return {static_cast<float*>(memory), at + pairs, at + 2 * pairs, at + 3 * pairs, tokens, chosen, experts};
  }
  /// each(expert, first of its pairs, how many), in order, for every expert that has one. Where
  /// expert_start_E1 is host memory.
  template <class Each>
  void for_each_expert(const Each& each) const {
    for (int64_t e = 0; e < experts; ++e)
      if (const int64_t first = expert_start_E1[e], count = expert_start_E1[e + 1] - first; count > 0)
        each(e, first, count);
  }
};

/// Whether matmul overwrites its output or adds to it.
enum class Into { overwrite, add };

/// What becomes of one token's logit before it is sampled from: + add, then divided by `repeat` if above 0
/// and multiplied by it if not, then - less.
struct LogitEdit {
  int32_t token = 0;
  float add = 0;
  float repeat = 1;
  float less = 0;
};

struct SampleParams {
  float temperature = 1;  // 0: greedy
  int32_t top_k = 0;      // 0 or -1: off
  float top_p = 1;
  float min_p = 0;
  uint64_t key = 0;       // hash of (seed, custom_id, sample index)
  uint32_t position = 0;  // index of the sampled token in the answer: the RNG's counter
  int32_t logprobs = -1;  // how many alternatives to return; -1: no log-probabilities at all
  // Rules (kernels/sampling.h, step 2). Host memory of the caller's, read during the call only; tokens lie in
  // [0, V).
  std::span<const int32_t> allowed{};  // none: all
  std::span<const int32_t> banned{};
  std::span<const LogitEdit> edits{};  // each token at most once

  bool has_rules() const { return !allowed.empty() || !banned.empty() || !edits.empty(); }
};

/// A token whose probability is wanted, whatever was drawn.
struct ScoreParams {
  int32_t token = 0;     // in [0, V)
  int32_t logprobs = 0;  // how many alternatives to return
};

struct TokenLogprob {
  int32_t token;
  float logprob;
};

struct Sampled {
  int32_t token = 0;
  float logprob = 0;              // of `token`, from log-softmax of the raw logits in float32
  std::vector<TokenLogprob> top;  // most likely first; ties by lower token id
  int32_t rank = 0;               // of a scored token: how many tokens are at least as likely as it
  bool finite = true;             // false: a NaN or +infinity was among the logits (CPUs look)
};

/// Tokens that were asked for and may still be on their way from the device. Must not outlive the Ops.
class Drawing {
 public:
  virtual ~Drawing() = default;
  /// Waits for them; once.
  virtual std::vector<Sampled> take() = 0;
};
using DrawingPtr = std::unique_ptr<Drawing>;

/// Tokens that are there.
class Drawn final : public Drawing {
 public:
  explicit Drawn(std::vector<Sampled> tokens) : tokens_(std::move(tokens)) {}
  std::vector<Sampled> take() override { return std::move(tokens_); }

 private:
  std::vector<Sampled> tokens_;
};

/// Sums of squares over vectors of K and V that a cache keeps in one byte a value.
struct CacheRounding {
  double error = 0;  // of what rounding took
  double kept = 0;   // of the vectors
};

class Ops {
 public:
  virtual ~Ops() = default;

  /// Names the kernels and constants that decide bits, e.g. "cpu-avx512bf16-1". Kept with every output.
  virtual std::string numerics() const = 0;
  /// Of some of the vectors kept since the last call; nothing where no cache is so narrow. A GPU tells what
  /// it had done by an earlier call.
  virtual CacheRounding take_cache_rounding() { return {}; }
  /// The dtype that projections (q, k, v, gate, up) are best written in when weights are `weight_dtype`.
  virtual DType projection_dtype(DType weight_dtype) const = 0;

  /// An N x K weight that will be multiplied in `dtype` (f32 or bf16).
  virtual std::unique_ptr<Matrix> make_matrix(int64_t n, int64_t k, DType dtype) = 0;
  /// Puts `rows_rK` (host memory, row-major, f32/f16/bf16) at rows [first_row, first_row + r) of `w`,
  /// rounding to nearest even.
  virtual void load_rows(Matrix& w, int64_t first_row, const TensorView& rows_rK) = 0;

  /// An N x K weight kept in FP8 E4M3, multiplied with inputs of `dtype` (f32 or bf16). A back end without a
  /// product for it may hold the weight in `dtype`.
  virtual std::unique_ptr<Matrix> make_fp8_matrix(int64_t n, int64_t k, DType dtype) = 0;
  /// Puts `rows_rK` (e4m3, host memory) there; element [i, j] counts scales_rB[i, j / 128] times its value.
  virtual void load_fp8_rows(Matrix& w, int64_t first_row, const TensorView& rows_rK,
                             const TensorView& scales_rB) = 0;

  /// x_TD (f32) = table_VD[ids_T]. `ids_T` is device memory; ids lie in [0, V).
  virtual void embed(TensorView x_TD, const int32_t* ids_T, TensorView table_VD) = 0;
  /// y_TD = x_TD / sqrt(mean(x^2) + eps) * weight_D (f32). Zhang and Sennrich 2019. y may be f32 or bf16.
  virtual void rms_norm(TensorView y_TD, TensorView x_TD, TensorView weight_D, float eps) = 0;
  /// y_TN = x_TK w_NK^T + bias_N, or y_TN += the same. x has the weight's dtype, y is f32 or bf16, bias (f32,
  /// may be empty) is added last.
  virtual void matmul(TensorView y_TN, TensorView x_TK, const Matrix& w_NK, TensorView bias_N, Into into) = 0;
  /// y_TF = silu(gate) * up, where gate and up are the first and the last F columns of x_TK w_2FK^T + bias_2F
  /// (SwiGLU, Shazeer 2020). A back end that needs it keeps the product in gate_up_T2F, of its
  /// projection_dtype; otherwise that is left as it is.
  virtual void gated_matmul(TensorView y_TF, TensorView gate_up_T2F, TensorView x_TK, const Matrix& w_2FK,
                            TensorView bias_2F) {
    matmul(gate_up_T2F, x_TK, w_2FK, bias_2F, Into::overwrite);
    swiglu(y_TF, gate_up_T2F);
  }
  /// From the projection qkv_TN (N = (H + 2G) d: all q heads, then k, then v): normalises and rotates q into
  /// q_THd, and k into the cache; stores v. Su et al. 2021 (RoFormer), in Hugging Face's rotate-half pairing.
  virtual void rope_and_store(TensorView q_THd, KvCacheView cache, TensorView qkv_TN,
                              const RotaryView& rotary, const BatchView& batch) = 0;
  /// out_THd = softmax(scale q k^T, causal) v over each row's cached positions. Query head h reads KV head
  /// h / (H / G). Fixed KV extents, online softmax (Milakov and Gimelshein 2018) in f32.
  virtual void attention(TensorView out_THd, TensorView q_THd, KvCacheView cache, const BatchView& batch,
                         float scale) = 0;

  /// From q_THe (e = n + r: each head's plain part, then the part to be rotated) and latent_TL (L + r wide:
  /// the latent, then the key to be rotated), both f32: the plain parts go to plain_THn (f32 or bf16), the
  /// rotated ones to the last r values of each head of q_THd (f32, d = L + r); the normed latent and the
  /// rotated key go into the cache.
  virtual void latent_rope_and_store(TensorView q_THd, TensorView plain_THn, LatentCacheView cache,
                                     TensorView q_THe, TensorView latent_TL, const LatentRotaryView& rotary,
                                     const BatchView& batch) = 0;
  /// out_THL = softmax(scale q [latent, key]^T, causal) latent over each row's cached positions: all heads
  /// read the same ones. q_THd is f32 (d = L + r), out f32 or bf16. Extents and order as in attention().
  virtual void latent_attention(TensorView out_THL, TensorView q_THd, LatentCacheView cache,
                                const BatchView& batch, float scale) = 0;
  /// For each head h: y_THy[:, h, :N] = x_THK[:, h, :] w_HNK[h]^T; the rest of y's heads is left as it is. x
  /// has the weights' dtype, y is f32 or bf16.
  virtual void matmul_by_head(TensorView y_THy, TensorView x_THK, std::span<const Matrix* const> w_HNK) = 0;

  /// Chooses each token's C experts from logits_TE (f32) and sorts the pairs by expert.
  virtual void route(const RoutingView& routing, TensorView logits_TE, const GateView& gate) = 0;
  /// For each expert e: y_SN[start[e]:start[e + 1]] = x_SK[the same] w_ENK[e]^T. Only weights of experts that
  /// have a pair are read; the others' may be null. Dtypes as for matmul.
  virtual void matmul_by_expert(TensorView y_SN, TensorView x_SK, std::span<const Matrix* const> w_ENK,
                                const RoutingView& routing) = 0;
  /// y_SF = silu(gate) * up, where gate and up are the first and the last F columns of the same for w_E2FK. A
  /// back end that needs it keeps the product in gate_up_S2F, of its projection_dtype.
  virtual void gated_matmul_by_expert(TensorView y_SF, TensorView gate_up_S2F, TensorView x_SK,
                                      std::span<const Matrix* const> w_E2FK, const RoutingView& routing) {
    matmul_by_expert(gate_up_S2F, x_SK, w_E2FK, routing);
    swiglu(y_SF, gate_up_S2F);
  }
  /// x_TD (f32) += the sum over a token's pairs, best expert first, of weight times y_SD[slot] (f32).
  virtual void combine_experts(TensorView x_TD, TensorView y_SD, const RoutingView& routing) = 0;

  /// y_TF = silu(gate) * up, with gate = gate_up_T2F[:, :F], up = gate_up_T2F[:, F:].
  virtual void swiglu(TensorView y_TF, TensorView gate_up_T2F) = 0;
  /// y_RD = x_TD[rows_R]: only rows whose logits are wanted go on to the head. `rows_R` is device memory.
  virtual void gather_rows(TensorView y_RD, TensorView x_TD, const int32_t* rows_R) = 0;
  /// Draws one token a row of logits_RV (f32, left unchanged). Filters as vLLM: temperature, min-p, top-k,
  /// top-p; kernels/sampling.h has the exact rules. Results are on the host when it returns.
  virtual std::vector<Sampled> sample(TensorView logits_RV, std::span<const SampleParams> params_R) = 0;
  /// The same, without waiting for the device where that is possible.
  virtual DrawingPtr start_sample(TensorView logits_RV, std::span<const SampleParams> params_R) {
    return std::make_unique<Drawn>(sample(logits_RV, params_R));
  }
  /// The log-probability of a given token of each row of logits_RV (f32), as sample gives it of a drawn one.
  /// Results are on the host when it returns.
  virtual std::vector<Sampled> score(TensorView logits_RV, std::span<const ScoreParams> params_R) = 0;
};

/// CPU ops on `threads` threads, the calling one included.
std::unique_ptr<Ops> make_cpu_ops(Device& device, int threads);
/// The plain reference: slow, obviously right, one thread. Tests compare against it.
std::unique_ptr<Ops> make_reference_ops(Device& device);
/// How products are chosen on a GPU.
struct CudaProducts {
  /// Split-K and its like are admitted: a row's bits then depend on how many share its call. For measuring
  /// what it costs to do without.
  bool any_sum_order = false;
  std::string file;  ///< keeps what was measured between jobs; empty: nothing is kept
};
/// Throws UsageError "built without CUDA" where the toolkit was missing at build time.
std::unique_ptr<Ops> make_cuda_ops(Device& device, const CudaProducts& products = {});

}  // namespace penstock
