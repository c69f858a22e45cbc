#include "kernels/cpu/team.h"

#include "kernels/cpu/kernel_table.h"
#include "runtime/base/error.h"

namespace penstock::cpu {
namespace {

constexpr uint32_t kStop = 0xFFFFFFFF;
constexpr int kPolls =
    2000;  // some tens of microseconds: longer than the gap between two operations of a layer

/// Polls, then sleeps, until `value` differs from `old`; returns what it became.
uint32_t wait_for_change(const std::atomic<uint32_t>& value, uint32_t old) {
  for (int i = 0; i < kPolls; ++i) {
    const uint32_t now = value.load(std::memory_order_acquire);
    if (now != old) return now;
    pause();
  }
  value.wait(old, std::memory_order_acquire);
  return value.load(std::memory_order_acquire);
}

}  // namespace

Team::Team(int threads) {
  ensure(threads >= 1, "a team has at least one thread");
  for (int i = 1; i < threads; ++i) workers_.emplace_back([this, i] { worker(i); });
}

Team::~Team() {
  round_.store(kStop, std::memory_order_release);
  round_.notify_all();
  for (std::thread& t : workers_) t.join();
}

void Team::run_erased(Work work) {
  if (workers_.empty()) {
    work.call(work.body, 0);
    return;
  }
  work_ = work;
  running_.store(static_cast<uint32_t>(workers_.size()), std::memory_order_relaxed);
  const uint32_t next = round_.load(std::memory_order_relaxed) + 1;
  round_.store(next == kStop ? 0 : next, std::memory_order_release);
  round_.notify_all();
  work.call(work.body, 0);
  for (uint32_t left = running_.load(std::memory_order_acquire); left != 0;)
    left = wait_for_change(running_, left);
}

void Team::worker(int thread) {
  uint32_t seen = 0;
  for (;;) {
    seen = wait_for_change(round_, seen);
    if (seen == kStop) return;
    work_.call(work_.body, thread);
    if (running_.fetch_sub(1, std::memory_order_acq_rel) == 1) running_.notify_one();
  }
}

}  // namespace penstock::cpu
