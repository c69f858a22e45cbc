#include "kernels/cuda/row_logits.h"

#include <algorithm>
#include <cstring>

namespace penstock::cuda {

char* RowLogits::room(size_t bytes) {
  if (bytes_ < bytes) {
    memory_ = device_.allocate(2 * bytes);
    bytes_ = 2 * bytes;
  }
  return static_cast<char*>(memory_.get());
}

TensorView RowLogits::with_rules(TensorView logits_RV, std::span<const int32_t> rows_A,
                                 std::span<const SampleParams> params_R) {
  const int64_t vocabulary = logits_RV.dim(1);
  const auto count = static_cast<int64_t>(rows_A.size());
  if (ruled_AV_.view.data == nullptr || ruled_AV_.view.dim(1) != vocabulary)
    ruled_AV_ = device_.tensor(DType::f32, {static_cast<int64_t>(kMostRuled), vocabulary});

  std::vector<RowRules> rules_A;
  std::vector<int32_t> tokens;
  std::vector<LogitEdit> edits;
  const auto put = [](auto& all, const auto& some) {
    const auto begin = static_cast<int32_t>(all.size());
    all.insert(all.end(), some.begin(), some.end());
    return std::pair(begin, static_cast<int32_t>(all.size()));
  };
  for (const int32_t row : rows_A) {
    const SampleParams& params = params_R[static_cast<size_t>(row)];
    const auto [allowed_begin, allowed_end] = put(tokens, params.allowed);
    const auto [banned_begin, banned_end] = put(tokens, params.banned);
    const auto [edits_begin, edits_end] = put(edits, params.edits);
    rules_A.push_back({row, allowed_begin, allowed_end, banned_begin, banned_end, edits_begin, edits_end});
  }
  const size_t tokens_at = rules_A.size() * sizeof(RowRules);
  const size_t edits_at = tokens_at + tokens.size() * sizeof(int32_t);
  host_.resize(edits_at + edits.size() * sizeof(LogitEdit));
  std::memcpy(host_.data(), rules_A.data(), tokens_at);
  std::copy_n(reinterpret_cast<const char*>(tokens.data()), edits_at - tokens_at, host_.data() + tokens_at);
  std::copy_n(reinterpret_cast<const char*>(edits.data()), host_.size() - edits_at, host_.data() + edits_at);
  char* const memory = room(host_.size());
  device_.upload(memory, host_.data(), host_.size());
  adjust_rows(device_.stream(), ruled_AV_.view.as<float>(), logits_RV,
              reinterpret_cast<const RowRules*>(memory), count,
              reinterpret_cast<const int32_t*>(memory + tokens_at),
              reinterpret_cast<const LogitEdit*>(memory + edits_at));
  return ruled_AV_.view.first(count);
}

std::vector<Sampled> RowLogits::score(TensorView logits_RV, std::span<const RowToScore> rows_S) {
  if (rows_S.empty()) return {};
  const size_t count = rows_S.size();
  size_t most_top = 0;
  for (const RowToScore& row : rows_S) most_top = std::max(most_top, static_cast<size_t>(row.logprobs));
  most_top = std::min(most_top, static_cast<size_t>(logits_RV.dim(1)));
  const size_t scored_at = count * sizeof(RowToScore);
  const size_t top_at = scored_at + count * sizeof(ScoredToken);
  const size_t end = top_at + count * most_top * sizeof(TokenLogprob);
  char* const memory = room(end);
  device_.upload(memory, rows_S.data(), scored_at);
  score_rows(device_.stream(), logits_RV, reinterpret_cast<const RowToScore*>(memory),
             static_cast<int64_t>(count), reinterpret_cast<ScoredToken*>(memory + scored_at),
             reinterpret_cast<TokenLogprob*>(memory + top_at), static_cast<int64_t>(most_top));
  host_.resize(end - scored_at);
  device_.download(host_.data(), memory + scored_at, host_.size());

  const auto* scored_S = reinterpret_cast<const ScoredToken*>(host_.data());
  const auto* top_SL = reinterpret_cast<const TokenLogprob*>(host_.data() + (top_at - scored_at));
  std::vector<Sampled> result;
  for (size_t s = 0; s < count; ++s) {
    const size_t wanted = std::min(most_top, static_cast<size_t>(rows_S[s].logprobs));
    const TokenLogprob* top_L = top_SL + s * most_top;
    result.push_back({rows_S[s].token, scored_S[s].logprob, {top_L, top_L + wanted}, scored_S[s].rank});
  }
  return result;
}

}  // namespace penstock::cuda
