// The parts of a decoder stage. Each owns its weights, works on the residual stream x_TD (f32, in place) and
// is driven by the stage's one thread. Another kind of attention or MLP implements Attention or Mlp and is
// chosen in half_layer.cpp.
//
// Legend as in kernels/ops.h: T tokens, R rows, D hidden size, V vocabulary.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "stages/loading.h"
#include "stages/scratch.h"

namespace penstock {

class Attention {
 public:
  virtual ~Attention() = default;
  virtual size_t weight_bytes() const = 0;
  virtual size_t kv_bytes_per_block() const = 0;
  virtual size_t scratch_bytes(int64_t tokens) const = 0;
  /// Before the first forward; again, for another number. Memory is reserved here, but a CPU touches its
  /// pages when they are first written.
  virtual void allocate_cache(int64_t blocks) = 0;
  /// From the next allocate_cache on the cache keeps the dtype that the stage computes in.
  virtual void use_full_precision() = 0;
  /// x_TD += output(attend(h_TD)). `h_TD` is the normed input, in the stage's dtype.
  virtual void forward(TensorView x_TD, TensorView h_TD, const BatchView& batch, Scratch& scratch) = 0;
};

class Mlp {
 public:
  virtual ~Mlp() = default;
  virtual size_t weight_bytes() const = 0;             // held now; any thread
  virtual ExpertUse expert_use() const { return {}; }  // any thread
  virtual size_t scratch_bytes(int64_t tokens) const = 0;
  /// x_TD += mlp(h_TD). `h_TD` is the normed input, in the stage's dtype.
  virtual void forward(TensorView x_TD, TensorView h_TD, Scratch& scratch) = 0;
};

/// `prefix` is "model.layers.7.self_attn."; `cos_sin_P2r` is shared by all layers of the stage.
std::unique_ptr<Attention> make_gqa(const BuildContext& context, const GqaConfig& config,
                                    const std::string& prefix, const Tensor& cos_sin_P2r);
std::unique_ptr<Attention> make_mla(const BuildContext& context, const MlaConfig& config,
                                    const std::string& prefix, const Tensor& cos_sin_P2r);
/// `prefix` is "model.layers.7.mlp.".
std::unique_ptr<Mlp> make_dense_mlp(const BuildContext& context, const DenseMlpConfig& config,
                                    const std::string& prefix);
std::unique_ptr<Mlp> make_moe(const BuildContext& context, const MoeConfig& config,
                              const std::string& prefix);

/// Half a decoder layer: x += attention(norm(x)), or x += mlp(norm(x)).
class HalfLayer {
 public:
  /// `half` counts from the model's first, as in StageCut.
  HalfLayer(const BuildContext& context, int64_t half, const Tensor& cos_sin_P2r);
  size_t weight_bytes() const;
  ExpertUse expert_use() const { return mlp_ ? mlp_->expert_use() : ExpertUse{}; }
  size_t scratch_bytes(int64_t tokens) const;
  Attention* attention() const { return attention_.get(); }  ///< null in an MLP's half
  void forward(TensorView x_TD, const BatchView& batch, Scratch& scratch);

 private:
  Ops& ops_;
  DType dtype_;
  float eps_;
  Tensor norm_D_;
  std::unique_ptr<Attention> attention_;  // one of the two
  std::unique_ptr<Mlp> mlp_;
};

class Embedding {
 public:
  explicit Embedding(const BuildContext& context);
  size_t weight_bytes() const { return table_VD_.view.bytes(); }
  /// x_TD = table[ids_T], ids in device memory.
  void forward(TensorView x_TD, const int32_t* ids_T) { ops_.embed(x_TD, ids_T, table_VD_); }

 private:
  Ops& ops_;
  Tensor table_VD_;
};

/// Final norm, output projection and sampling, for the rows whose logits are wanted.
class Head {
 public:
  explicit Head(const BuildContext& context);
  size_t weight_bytes() const;
  /// Computes the logits of the hidden states at x_TD[rows_R]; rows_R in device memory, at most spec.max_rows
  /// of them.
  void compute_logits(TensorView x_TD, const int32_t* rows_R, int64_t rows);
  /// One token for each of params_R, from as many rows of the logits computed last. Null for none.
  DrawingPtr start_sample(std::span<const SampleParams> params_R);
  /// The score of each target, from x_TD[rows_S]. Any number of them: logits are made for max_rows at a time.
  std::vector<Sampled> score(TensorView x_TD, const int32_t* rows_S, std::span<const ScoreParams> scores_S);

 private:
  TensorView logits(TensorView x_TD, const int32_t* rows, int64_t count);

  Ops& ops_;
  float eps_;
  Tensor norm_D_;
  std::unique_ptr<Matrix> output_VD_;
  Tensor gathered_RD_;
  Tensor normed_RD_;
  Tensor logits_RV_;
};

}  // namespace penstock
