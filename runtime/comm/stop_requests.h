// Requests to end the job in good order, as they arrive on rank 0 from the signals of any rank. Thread-safe.
#pragma once

#include <chrono>
#include <condition_variable>
#include <deque>
#include <mutex>
#include <optional>
#include <string>

namespace penstock {

struct StopRequest {
  int rank = 0;
  std::string reason;
};

class StopRequests {
 public:
  void add(int rank, std::string reason);
  /// The oldest request not yet taken; nothing when none comes until `end`, or after close().
  std::optional<StopRequest> wait_until(std::chrono::steady_clock::time_point end);
  /// Wakes whoever waits; nobody waits any more.
  void close();
  bool closed();

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<StopRequest> requests_;
  bool closed_ = false;
};

}  // namespace penstock
