// What one stage does with its time: the runner says what it begins and ends, any thread asks for a report.
// Knows no clock of its own; the caller says when.
#pragma once

#include <array>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <mutex>
#include <vector>

#include "proto/plan.pb.h"

namespace penstock {

class StageMeter {
 public:
  using Clock = std::chrono::steady_clock;

  /// `trace`: every stretch is kept until a report takes it along.
  explicit StageMeter(int rank, bool trace = false);

  /// The runner's thread: a stretch of `activity` begins, for micro-batch `step`. What was waited for before
  /// the first forward is start-up and is forgotten.
  void begin(proto::Activity activity, uint64_t step, Clock::time_point now);
  /// It ends; `tokens` of a forward that is done.
  void end(Clock::time_point now, int64_t tokens = 0);
  void sent(size_t bytes);
  void ran_out_of_memory();
  void drew_from_no_numbers(uint64_t tokens);
  /// Sums of squares over vectors that the KV cache keeps: of what rounding took, and of the vectors.
  void rounded(double error, double kept);

  /// Any thread. Takes the kept stretches along.
  proto::StageReport report(Clock::time_point now);

  uint64_t micro_batches() const;

 private:
  double seconds_of(proto::Activity activity, Clock::time_point now) const;

  const bool trace_;
  mutable std::mutex mutex_;
  std::array<double, proto::Activity_ARRAYSIZE> seconds_{};
  proto::Activity activity_ = proto::ACTIVITY_OTHER;
  uint64_t step_ = 0;
  Clock::time_point since_{};
  bool running_ = false;  // the first forward has begun
  Clock::time_point first_forward_begin_{};
  Clock::time_point last_forward_end_{};
  double rounding_error_ = 0;  // since the last report
  double kept_ = 0;
  proto::StageReport report_;  // counts and events
};

/// Adds the life of this object to the meter, by the steady clock.
class Stopwatch {
 public:
  Stopwatch(StageMeter& meter, proto::Activity activity, uint64_t step) : meter_(meter) {
    meter_.begin(activity, step, StageMeter::Clock::now());
  }
  ~Stopwatch() { meter_.end(StageMeter::Clock::now(), tokens_); }
  Stopwatch(const Stopwatch&) = delete;
  Stopwatch& operator=(const Stopwatch&) = delete;
  /// It was a forward, and it has succeeded.
  void done(int64_t tokens) { tokens_ = tokens; }

 private:
  StageMeter& meter_;
  int64_t tokens_ = 0;
};

}  // namespace penstock
