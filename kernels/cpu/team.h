// A fixed team of threads that share one piece of work at a time: the thread that calls, and size() - 1
// workers. A worker that waits polls for a few microseconds and then sleeps in the kernel, because several
// ranks may share the cores. One thread drives a team; the work itself must not throw.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <thread>
#include <type_traits>
#include <vector>

namespace penstock::cpu {

class Team {
 public:
  /// `threads` >= 1 counts the caller; 1 starts no thread at all.
  explicit Team(int threads);
  ~Team();
  Team(const Team&) = delete;
  Team& operator=(const Team&) = delete;

  int size() const { return static_cast<int>(workers_.size()) + 1; }

  /// Runs body(thread) once on every thread, 0 being the caller, and returns when all are done.
  template <class Body>
  void run(const Body& body) {
    run_erased({&body, [](const void* b, int thread) { (*static_cast<const Body*>(b))(thread); }});
  }

  /// Runs body(thread, begin, end) over [0, items) in pieces that shrink towards the end, down to `least`
  /// items, so that all threads finish together even if one was held up. Who gets which piece is decided as
  /// they become free; no result may depend on it.
  template <class Body>
  void share(int64_t items, int64_t least, const Body& body) {
    if (size() == 1 || items <= least) {
      if (items > 0) body(0, int64_t{0}, items);
      return;
    }
    std::atomic<int64_t> next{0};
    run([&](int thread) {
      int64_t begin = next.load(std::memory_order_relaxed);
      while (begin < items) {
        const int64_t end = std::min(items, begin + std::max(least, (items - begin) / (2 * size())));
        if (!next.compare_exchange_weak(begin, end, std::memory_order_relaxed)) continue;
        body(thread, begin, end);
        begin = next.load(std::memory_order_relaxed);
      }
    });
  }

 private:
  struct Work {
    const void* body = nullptr;
    void (*call)(const void* body, int thread) = nullptr;
  };
  void run_erased(Work work);
  void worker(int thread);

  Work work_;
  alignas(64) std::atomic<uint32_t> round_{0};    // grows by one a piece of work; kStop ends the workers
  alignas(64) std::atomic<uint32_t> running_{0};  // workers that have not finished this round
  std::vector<std::thread> workers_;
};

}  // namespace penstock::cpu
