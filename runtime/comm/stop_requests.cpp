#include "runtime/comm/stop_requests.h"

#include <utility>

namespace penstock {

void StopRequests::add(int rank, std::string reason) {
  const std::lock_guard lock(mutex_);
  requests_.push_back({rank, std::move(reason)});
  changed_.notify_all();
}

std::optional<StopRequest> StopRequests::wait_until(std::chrono::steady_clock::time_point end) {
  std::unique_lock lock(mutex_);
  changed_.wait_until(lock, end, [this] { return closed_ || !requests_.empty(); });
  if (closed_ || requests_.empty()) return std::nullopt;
  StopRequest request = std::move(requests_.front());
  requests_.pop_front();
  return request;
}

bool StopRequests::closed() {
  const std::lock_guard lock(mutex_);
  return closed_;
}

void StopRequests::close() {
  const std::lock_guard lock(mutex_);
  closed_ = true;
  changed_.notify_all();
}

}  // namespace penstock
