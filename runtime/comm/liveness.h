// Judges from the times of heartbeats which peer is dead. Plain code with the clock passed in; one thread.
#pragma once

#include <chrono>
#include <functional>
#include <optional>
#include <string>
#include <vector>

namespace penstock {

/// How often heartbeats are sent, and check() is called.
constexpr std::chrono::milliseconds kHeartbeatPeriod{500};

class Liveness {
 public:
  using Clock = std::chrono::steady_clock;
  struct Death {
    int rank;
    std::string why;  ///< "its process is gone", "no sign of life for 10 s"
  };

  /// Silence longer than `deadline` is death. `gone(rank)` says that the rank is of this machine and its
  /// process does not exist any more: that is death after one missed heartbeat.
  Liveness(std::vector<int> watched, std::chrono::milliseconds deadline, std::function<bool(int)> gone,
           Clock::time_point now);

  void heard(int rank, Clock::time_point now);
  /// The first dead peer, if any. A call that comes late says that this machine stood still, and then
  /// nobody's silence of that time counts.
  std::optional<Death> check(Clock::time_point now);

 private:
  struct Watched {
    int rank;
    Clock::time_point heard;
  };
  std::vector<Watched> watched_;
  std::chrono::milliseconds deadline_;
  std::function<bool(int)> gone_;
  Clock::time_point checked_;
};

}  // namespace penstock
