#include "kernels/cuda/row_draws.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "kernels/sampling.h"

namespace penstock::cuda {
namespace {

/// Dropped untaken, its memory is released by the driver, which waits for the device first.
class DrawnRows final : public Drawing {
 public:
  /// In `piece`: a DrawnToken for each row, then `most_top` alternatives for each.
  DrawnRows(PinnedPool& pool, PinnedPool::Piece piece, cudaStream_t stream,
            std::span<const SampleParams> params_R, size_t most_top)
      : pool_(pool), piece_(std::move(piece)), there_(make_event()), most_top_(most_top) {
    for (const SampleParams& p : params_R)
      wanted_R_.push_back(std::min(most_top, static_cast<size_t>(std::max(0, p.logprobs))));
    check(cudaEventRecord(there_.get(), stream), "mark the tokens drawn");
  }

  std::vector<Sampled> take() override {
    check(cudaEventSynchronize(there_.get()), "wait for the tokens drawn");
    const auto* drawn_R = static_cast<const DrawnToken*>(piece_.memory.get());
    const auto* top_RL = reinterpret_cast<const TokenLogprob*>(drawn_R + wanted_R_.size());
    std::vector<Sampled> result(wanted_R_.size());
    for (size_t r = 0; r < result.size(); ++r) {
      const TokenLogprob* top_L = top_RL + r * most_top_;
      result[r] = {drawn_R[r].token, drawn_R[r].logprob, {top_L, top_L + wanted_R_[r]}, 0};
    }
    pool_.give_back(std::move(piece_));
    return result;
  }

 private:
  PinnedPool& pool_;
  PinnedPool::Piece piece_;
  Event there_;
  size_t most_top_;
  std::vector<size_t> wanted_R_;
};

}  // namespace

PinnedPool::Piece PinnedPool::take(size_t bytes) {
  if (free_.empty()) free_.emplace_back();
  Piece piece = std::move(free_.back());
  free_.pop_back();
  if (piece.bytes >= bytes) return piece;
  most_bytes_ = std::max(most_bytes_, 2 * bytes);
  return {make_pinned(most_bytes_), most_bytes_};
}

DrawingPtr RowDraws::start(TensorView logits_RV, std::span<const SampleParams> params_R) {
  const size_t rows = params_R.size();
  size_t most_top = 0;
  to_draw_.clear();
  for (const SampleParams& p : params_R) {
    to_draw_.push_back({uniform_for(p), is_greedy(p) ? 0.0F : p.temperature, p.top_k, p.top_p,
                        std::isnan(p.min_p) ? 0.0F : std::min(p.min_p, 1.0F), p.logprobs});
    most_top = std::max(most_top, static_cast<size_t>(std::max(0, p.logprobs)));
  }
  most_top = std::min(most_top, static_cast<size_t>(logits_RV.dim(1)));

  // On the device: the rows to draw, the tokens drawn, the alternatives. The last two come back in one piece.
  const size_t drawn_at = rows * sizeof(RowToDraw);
  const size_t top_at = drawn_at + rows * sizeof(DrawnToken);
  const size_t end = top_at + rows * most_top * sizeof(TokenLogprob);
  if (room_ < end) {
    memory_ = device_.allocate(2 * end);
    room_ = 2 * end;
  }
  auto* const memory = static_cast<char*>(memory_.get());
  device_.upload(memory, to_draw_.data(), drawn_at);
  sample_rows(device_.stream(), logits_RV, reinterpret_cast<const RowToDraw*>(memory),
              reinterpret_cast<DrawnToken*>(memory + drawn_at),
              reinterpret_cast<TokenLogprob*>(memory + top_at), static_cast<int64_t>(most_top));
  PinnedPool::Piece piece = pinned_.take(end - drawn_at);
  check(cudaMemcpyAsync(piece.memory.get(), memory + drawn_at, end - drawn_at, cudaMemcpyDeviceToHost,
                        device_.stream()),
        "bring back the tokens drawn");
  return std::make_unique<DrawnRows>(pinned_, std::move(piece), device_.stream(), params_R, most_top);
}

}  // namespace penstock::cuda
