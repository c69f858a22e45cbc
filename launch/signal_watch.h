// What a signal does to a job: SIGTERM, SIGINT and SIGUSR1 ask rank 0 to stop it (launch/stopping.h). A
// thread waits for them, so nothing runs inside a signal handler.
#pragma once

#include <atomic>
#include <csignal>
#include <thread>

#include "runtime/comm/world.h"

namespace penstock {

class SignalWatch {
 public:
  /// Blocks those signals in the calling thread and all it starts from here on: call it before any other
  /// thread exists.
  static void block_signals();

  /// `world` must outlive this.
  explicit SignalWatch(World& world);
  ~SignalWatch();
  SignalWatch(const SignalWatch&) = delete;
  SignalWatch& operator=(const SignalWatch&) = delete;

 private:
  void wait_for_signal();

  World& world_;
  std::atomic<bool> over_{false};
  std::thread thread_;
};

}  // namespace penstock
