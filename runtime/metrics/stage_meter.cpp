#include "runtime/metrics/stage_meter.h"

#include <cmath>
#include <utility>

namespace penstock {
namespace {

// Between two reports; a stage of small forwards makes some thousand stretches a second.
constexpr int kMostEvents = 1 << 16;

double between(StageMeter::Clock::time_point from, StageMeter::Clock::time_point to) {
  return std::chrono::duration<double>(to - from).count();
}

uint64_t nanoseconds(StageMeter::Clock::duration duration) {
  return static_cast<uint64_t>(std::chrono::duration_cast<std::chrono::nanoseconds>(duration).count());
}

}  // namespace

StageMeter::StageMeter(int rank, bool trace) : trace_(trace) {
  report_.set_rank(static_cast<uint32_t>(rank));
}

void StageMeter::begin(proto::Activity activity, uint64_t step, Clock::time_point now) {
  const std::lock_guard lock(mutex_);
  if (activity == proto::ACTIVITY_BUSY && !running_) {
    running_ = true;
    seconds_ = {};
    first_forward_begin_ = now;
    last_forward_end_ = now;
  }
  activity_ = activity;
  step_ = step;
  since_ = now;
}

void StageMeter::end(Clock::time_point now, int64_t tokens) {
  const std::lock_guard lock(mutex_);
  const proto::Activity ended = std::exchange(activity_, proto::ACTIVITY_OTHER);
  const Clock::time_point began = std::exchange(since_, now);
  seconds_[static_cast<size_t>(ended)] += between(began, now);
  if (ended == proto::ACTIVITY_BUSY && tokens > 0) {
    last_forward_end_ = now;
    report_.set_micro_batches(report_.micro_batches() + 1);
    report_.set_tokens(report_.tokens() + static_cast<uint64_t>(tokens));
  }
  if (!trace_ || !running_) return;
  if (report_.events_size() >= kMostEvents) {
    report_.set_lost_events(report_.lost_events() + 1);
    return;
  }
  proto::StageEvent& event = *report_.add_events();
  event.set_activity(ended);
  event.set_step(step_);
  event.set_begin_ns(nanoseconds(began.time_since_epoch()));
  event.set_duration_ns(nanoseconds(now - began));
  event.set_tokens(static_cast<uint32_t>(tokens));
}

void StageMeter::sent(size_t bytes) {
  const std::lock_guard lock(mutex_);
  report_.set_edge_bytes(report_.edge_bytes() + bytes);
}

void StageMeter::ran_out_of_memory() {
  const std::lock_guard lock(mutex_);
  report_.set_out_of_memory(report_.out_of_memory() + 1);
}

void StageMeter::drew_from_no_numbers(uint64_t tokens) {
  const std::lock_guard lock(mutex_);
  report_.set_nonfinite_tokens(report_.nonfinite_tokens() + tokens);
}

void StageMeter::rounded(double error, double kept) {
  const std::lock_guard lock(mutex_);
  rounding_error_ += error;
  kept_ += kept;
}

double StageMeter::seconds_of(proto::Activity activity, Clock::time_point now) const {
  const double ongoing = activity == activity_ && running_ ? between(since_, now) : 0;
  return seconds_[static_cast<size_t>(activity)] + ongoing;
}

proto::StageReport StageMeter::report(Clock::time_point now) {
  const std::lock_guard lock(mutex_);
  proto::StageReport report = report_;
  report_.clear_events();
  if (kept_ > 0) report.set_kv_error(std::sqrt(rounding_error_ / kept_));
  rounding_error_ = kept_ = 0;
  report.set_made_ns(nanoseconds(now.time_since_epoch()));
  report.set_activity(activity_);
  report.set_activity_seconds(between(since_, now));
  if (!running_) return report;
  report.set_busy_seconds(seconds_of(proto::ACTIVITY_BUSY, now));
  report.set_wait_input_seconds(seconds_of(proto::ACTIVITY_WAIT_INPUT, now));
  report.set_wait_plan_seconds(seconds_of(proto::ACTIVITY_WAIT_PLAN, now));
  report.set_send_seconds(seconds_of(proto::ACTIVITY_SEND, now));
  const Clock::time_point last = activity_ == proto::ACTIVITY_BUSY ? now : last_forward_end_;
  report.set_span_seconds(between(first_forward_begin_, last));
  return report;
}

uint64_t StageMeter::micro_batches() const {
  const std::lock_guard lock(mutex_);
  return report_.micro_batches();
}

}  // namespace penstock
