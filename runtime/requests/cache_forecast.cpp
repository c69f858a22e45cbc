#include "runtime/requests/cache_forecast.h"

#include <algorithm>
#include <cmath>
#include <utility>

namespace penstock {
namespace {

bool ends_before(const CacheGrowth& a, const CacheGrowth& b) {
  return a.to_come < b.to_come;
}

}  // namespace

void AnswerLengths::ended(int64_t generated, int64_t max_tokens) {
  constexpr double kKeep = 1 - 1.0 / 256;
  taken_ = kKeep * taken_ + static_cast<double>(generated);
  allowed_ = kKeep * allowed_ + static_cast<double>(max_tokens);
}

int64_t AnswerLengths::expected_to_come(int64_t generated, int64_t max_tokens) const {
  const int64_t left = max_tokens - generated;
  return std::clamp<int64_t>(std::llround(taken_ / allowed_ * static_cast<double>(left)), 1, left);
}

CacheForecast::CacheForecast(int64_t blocks, int64_t block_size, std::vector<CacheGrowth> running)
    : capacity_(blocks * block_size), block_size_(block_size), running_(std::move(running)) {
  for (const CacheGrowth& r : running_) held_at_ends_ += at_end(r);
}

bool CacheForecast::add(const CacheGrowth& sequence) {
  held_at_ends_ += at_end(sequence);
  if (held_at_ends_ <= capacity_) {
    running_.push_back(sequence);
    in_order_ = false;
    return true;
  }
  if (!in_order_) std::sort(running_.begin(), running_.end(), ends_before);
  in_order_ = true;
  const auto place =
      running_.insert(std::upper_bound(running_.begin(), running_.end(), sequence, ends_before), sequence);
  if (most_held() <= capacity_) return true;
  running_.erase(place);
  held_at_ends_ -= at_end(sequence);
  return false;
}

int64_t CacheForecast::at_end(const CacheGrowth& sequence) const {
  return (sequence.held + sequence.to_come + block_size_ - 1) / block_size_ * block_size_;
}

// What is held grows from step to step but where sequences end: the most is held at one of the ends. All but
// one token of a last block may be unused.
int64_t CacheForecast::most_held() const {
  auto alive = static_cast<int64_t>(running_.size());
  int64_t held = alive * (block_size_ - 1);
  for (const CacheGrowth& r : running_) held += r.held;
  int64_t most = 0;
  for (const CacheGrowth& r : running_) {
    most = std::max(most, held + alive * r.to_come);
    held -= r.held + block_size_ - 1;
    --alive;
  }
  return most;
}

}  // namespace penstock
