#include "runtime/comm/liveness.h"

#include <algorithm>
#include <utility>

namespace penstock {

Liveness::Liveness(std::vector<int> watched, std::chrono::milliseconds deadline,
                   std::function<bool(int)> gone, Clock::time_point now)
    : deadline_(deadline), gone_(std::move(gone)), checked_(now) {
  for (const int rank : watched) watched_.push_back({rank, now});
}

void Liveness::heard(int rank, Clock::time_point now) {
  for (Watched& peer : watched_) {
    if (peer.rank == rank) peer.heard = now;
  }
}

std::optional<Liveness::Death> Liveness::check(Clock::time_point now) {
  const auto stood_still = std::max(now - checked_ - kHeartbeatPeriod, Clock::duration::zero());
  checked_ = now;
  for (Watched& peer : watched_) {
    peer.heard = std::min(peer.heard + stood_still, now);
    const auto silence = now - peer.heard;
    if (silence > deadline_) {
      const auto seconds = std::chrono::duration_cast<std::chrono::duration<double>>(silence).count();
      return Death{peer.rank, "no sign of life for " + std::to_string(static_cast<int>(seconds)) + " s"};
    }
    if (silence > kHeartbeatPeriod && gone_(peer.rank)) return Death{peer.rank, "its process is gone"};
  }
  return std::nullopt;
}

}  // namespace penstock
