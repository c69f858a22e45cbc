// Ends the process with status 1 and a message when a call that cannot be interrupted takes too long:
// MPI_Init and MPI_Finalize wait for every rank, without a limit of their own.
#pragma once

#include <chrono>
#include <condition_variable>
#include <functional>
#include <mutex>
#include <string>
#include <thread>

namespace penstock {

class Watchdog {
 public:
  /// Unless destroyed before the deadline, logs what `message` returns, if anything, and ends the process.
  Watchdog(std::chrono::milliseconds deadline, std::function<std::string()> message);
  ~Watchdog();
  Watchdog(const Watchdog&) = delete;
  Watchdog& operator=(const Watchdog&) = delete;

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  bool over_ = false;
  std::thread thread_;
};

}  // namespace penstock
