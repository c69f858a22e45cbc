#include "launch/stopping.h"

#include <algorithm>
#include <cstdlib>

#include "runtime/base/log.h"

namespace penstock {
namespace {

using Seconds = std::chrono::duration<double>;

// How often the clock is looked at; while draining it says when it is over.
constexpr std::chrono::milliseconds kLook{200};
constexpr std::chrono::milliseconds kPatienceOfTheLastSave{3000};
// Saving cut rows, closing the world, ending MPI.
constexpr Seconds kToEnd{2};
constexpr int kRounds = 3;

}  // namespace

Seconds drain_reserve(double slowest_round_seconds, Seconds most) {
  return std::min(most, kToEnd + kRounds * Seconds(slowest_round_seconds));
}

Stopping::Stopping(World& world) : world_(world), thread_([this] { judge_until_closed(); }) {}

Stopping::~Stopping() {
  world_.stop_requests().close();
  thread_.join();
}

void Stopping::attach(BatchJob& job, const StopLimits& limits) {
  const std::lock_guard lock(mutex_);
  job_ = &job;
  limits_ = limits;
}

void Stopping::detach() {
  const std::lock_guard lock(mutex_);
  job_ = nullptr;
  drain_end_.reset();
}

void Stopping::linger(Seconds time) {
  std::unique_lock lock(mutex_);
  over_ = true;
  left_.wait_for(lock, time, [this] { return asked_to_leave_; });
}

std::string Stopping::reason() const {
  const std::lock_guard lock(mutex_);
  return reason_;
}

void Stopping::drain(const std::string& reason) {
  reason_ = reason;
  drain_end_ = Clock::now() + std::chrono::duration_cast<Clock::duration>(limits_.drain);
  log::info(reason + ": the job drains; rows that are not finished are saved as they are");
  job_->drain();
}

// Called with the mutex held: the job cannot go away meanwhile, and nobody else has anything to do here.
void Stopping::end_at_once(const std::string& reason) {
  try {
    if (job_ != nullptr) job_->save_finished(kPatienceOfTheLastSave);
  } catch (const std::exception& e) {
    log::error(e.what());
  }
  world_.abort(reason, ExitStatus::stopped);
  std::_Exit(static_cast<int>(ExitStatus::stopped));
}

void Stopping::judge_until_closed() {
  for (;;) {
    const std::optional<StopRequest> request = world_.stop_requests().wait_until(Clock::now() + kLook);
    const std::lock_guard lock(mutex_);
    if (request && over_) {
      asked_to_leave_ = true;
      left_.notify_all();
    } else if (request) {
      const std::string who =
          world_.size() > 1 ? request->reason + " on rank " + std::to_string(request->rank) : request->reason;
      if (!asked_.insert(request->rank).second)
        end_at_once("stopped at once by a second " + who + "; every finished row is saved");
      if (job_ == nullptr && reason_.empty())
        end_at_once("stopped by " + who + " while no rows were running");
      if (reason_.empty()) drain(who);
    } else if (world_.stop_requests().closed()) {
      return;
    }
    if (job_ == nullptr) continue;
    if (drain_end_ && Clock::now() > *drain_end_)
      end_at_once("the drain after " + reason_ +
                  " took longer than --drain-seconds; every finished row is saved");
    if (reason_.empty() && limits_.end) {
      const Seconds reserve = drain_reserve(job_->progress().slowest_round_seconds, limits_.drain);
      if (Clock::now() + std::chrono::duration_cast<Clock::duration>(reserve) >= *limits_.end)
        drain("--max-seconds");
    }
  }
}

}  // namespace penstock
