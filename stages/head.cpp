#include <algorithm>
#include <iterator>

#include "stages/parts.h"

namespace penstock {

Head::Head(const BuildContext& context) : ops_(context.ops), eps_(context.config.rms_norm_eps) {
  const int64_t hidden = context.config.hidden_size;
  const int64_t vocabulary = context.config.vocab_size;
  norm_D_ = load_vector(context, {{"model.norm.weight", hidden}});
  const char* name = context.config.tie_word_embeddings ? "model.embed_tokens.weight" : "lm_head.weight";
  output_VD_ = load_matrix(context, {{name, vocabulary}}, hidden);
  const int64_t rows = context.spec.max_rows;
  gathered_RD_ = context.device.tensor(DType::f32, {rows, hidden});
  normed_RD_ = context.device.tensor(context.spec.dtype, {rows, hidden});
  logits_RV_ = context.device.tensor(DType::f32, {rows, vocabulary});
}

size_t Head::weight_bytes() const {
  return norm_D_.view.bytes() + output_VD_->bytes();
}

void Head::compute_logits(TensorView x_TD, const int32_t* rows_R, int64_t rows) {
  if (rows > 0) logits(x_TD, rows_R, rows);
}

DrawingPtr Head::start_sample(std::span<const SampleParams> params_R) {
  if (params_R.empty()) return nullptr;
  return ops_.start_sample(logits_RV_.view.first(static_cast<int64_t>(params_R.size())), params_R);
}

TensorView Head::logits(TensorView x_TD, const int32_t* rows, int64_t count) {
  const TensorView gathered_RD = gathered_RD_.view.first(count);
  const TensorView normed_RD = normed_RD_.view.first(count);
  const TensorView logits_RV = logits_RV_.view.first(count);
  ops_.gather_rows(gathered_RD, x_TD, rows);
  ops_.rms_norm(normed_RD, gathered_RD, norm_D_, eps_);
  ops_.matmul(logits_RV, normed_RD, *output_VD_, {}, Into::overwrite);
  return logits_RV;
}

std::vector<Sampled> Head::score(TensorView x_TD, const int32_t* rows_S,
                                 std::span<const ScoreParams> scores_S) {
  std::vector<Sampled> all;
  const auto most = static_cast<size_t>(logits_RV_.view.dim(0));
  for (size_t first = 0; first < scores_S.size(); first += most) {
    const auto part = scores_S.subspan(first, std::min(most, scores_S.size() - first));
    std::vector<Sampled> scored =
        ops_.score(logits(x_TD, rows_S + first, static_cast<int64_t>(part.size())), part);
    all.insert(all.end(), std::make_move_iterator(scored.begin()), std::make_move_iterator(scored.end()));
  }
  return all;
}

}  // namespace penstock
