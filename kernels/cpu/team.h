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

  /// Runs body(thread, begin, end) over [0, items) in pieces of at most `chunk`. Who gets which piece is
  /// decided as they become free; no result may depend on it.
  template <class Body>
  void share(int64_t items, int64_t chunk, const Body& body) {
    if (size() == 1 || items <= chunk) {
      if (items > 0) body(0, int64_t{0}, items);
      return;
    }
    std::atomic<int64_t> next{0};
    run([&](int thread) {
      for (;;) {
        const int64_t begin = next.fetch_add(chunk, std::memory_order_relaxed);
        if (begin >= items) return;
        body(thread, begin, std::min(begin + chunk, items));
      }
    });
  }

  /// Pieces so that every thread gets about `pieces` of them.
  int64_t chunk_for(int64_t items, int64_t pieces) const {
    return std::max<int64_t>(1, (items + pieces * size() - 1) / (pieces * size()));
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
