#include "runtime/comm/gather.h"

#include <utility>

namespace penstock {

std::optional<Gather::Texts> Gather::add(int from, std::string text) {
  const std::lock_guard lock(mutex_);
  parts_.at(static_cast<size_t>(from)).push_back(std::move(text));
  for (const auto& part : parts_) {
    if (part.empty()) return std::nullopt;
  }
  Texts texts;
  for (auto& part : parts_) {
    texts.push_back(std::move(part.front()));
    part.pop_front();
  }
  return texts;
}

void Gather::publish(Texts texts) {
  const std::lock_guard lock(mutex_);
  published_.push_back(std::move(texts));
  changed_.notify_all();
}

void Gather::fail(const Fault& fault) {
  const std::lock_guard lock(mutex_);
  fault_ = fault;
  changed_.notify_all();
}

std::optional<Gather::Texts> Gather::wait(std::chrono::milliseconds timeout) {
  std::unique_lock lock(mutex_);
  changed_.wait_for(lock, timeout, [this] { return !published_.empty() || fault_; });
  if (fault_) raise(*fault_);
  if (published_.empty()) return std::nullopt;
  Texts texts = std::move(published_.front());
  published_.pop_front();
  return texts;
}

std::vector<int> Gather::missing() {
  const std::lock_guard lock(mutex_);
  std::vector<int> ranks;
  for (size_t r = 0; r < parts_.size(); ++r) {
    if (parts_[r].empty()) ranks.push_back(static_cast<int>(r));
  }
  return ranks;
}

}  // namespace penstock
