// How a job ends before its rows do: asked by a signal on any rank, or by the clock, rank 0 drains it. Only
// rank 0 plans micro-batches, so the step after which it plans no more is the one on which all ranks agree.
//   first request          drain: what is in flight comes back, unfinished rows are saved token by token
//   drain takes too long,  end at once: every row that was finished is saved first
//   or a second request of one rank
// All of these end with ExitStatus::stopped. One thread of its own.
#pragma once

#include <chrono>
#include <condition_variable>
#include <mutex>
#include <optional>
#include <set>
#include <string>
#include <thread>

#include "runtime/comm/world.h"
#include "runtime/requests/batch_job.h"

namespace penstock {

/// The job was asked to stop, and all ranks have ended it in good order.
class JobStopped : public Error {
 public:
  explicit JobStopped(const std::string& message) : Error(message, ExitStatus::stopped) {}
};

struct StopLimits {
  std::chrono::duration<double> drain{60};
  /// When the process shall have ended, if there is such a time.
  std::optional<std::chrono::steady_clock::time_point> end;
};

class Stopping {
 public:
  using Clock = std::chrono::steady_clock;

  /// On rank 0; without a job a request ends the world at once. `world` must outlive it.
  explicit Stopping(World& world);
  ~Stopping();
  Stopping(const Stopping&) = delete;
  Stopping& operator=(const Stopping&) = delete;

  /// From now on requests drain `job`, until detach().
  void attach(BatchJob& job, const StopLimits& limits);
  void detach();
  /// The job has ended well: returns after `time`, or as soon as any rank is asked to stop.
  void linger(std::chrono::duration<double> time);
  /// Why the job was drained; empty when it was not.
  std::string reason() const;

 private:
  void judge_until_closed();
  void drain(const std::string& reason);
  [[noreturn]] void end_at_once(const std::string& reason);

  World& world_;
  mutable std::mutex mutex_;  // guards what follows
  BatchJob* job_ = nullptr;
  StopLimits limits_;
  std::string reason_;
  std::optional<Clock::time_point> drain_end_;
  bool over_ = false;  // the job has ended: a request only ends the lingering
  bool asked_to_leave_ = false;
  std::condition_variable left_;

  std::set<int> asked_;  // its thread
  std::thread thread_;
};

/// How long before the end a drain must begin: some rounds of the pipeline, and time to save.
std::chrono::duration<double> drain_reserve(double slowest_round_seconds, std::chrono::duration<double> most);

}  // namespace penstock
