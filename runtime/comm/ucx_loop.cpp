#include "runtime/comm/ucx_loop.h"

#include <unistd.h>

#include <boost/asio/post.hpp>
#include <boost/asio/steady_timer.hpp>
#include <exception>
#include <memory>
#include <utility>

#include "runtime/base/error.h"

namespace penstock {
namespace {

using Clock = std::chrono::steady_clock;

// Longer than the gap between the messages of one transfer, shorter than what a sleep and a wake-up cost
// others when ranks outnumber cores.
constexpr std::chrono::microseconds kPoll{30};
// How often a loop that never sleeps looks at its timers.
constexpr std::chrono::milliseconds kTimers{1};
// Messages moved before tasks of other threads have their turn.
constexpr int kProgressBurst = 64;

int duplicate(int descriptor) {
  const int copy = dup(descriptor);
  if (copy < 0) throw Error("UCX: the worker's event descriptor cannot be duplicated: too many open files.");
  return copy;
}

}  // namespace

UcxLoop::UcxLoop(UcxWorker& worker, std::function<void(const std::string&)> failed)
    : worker_(worker),
      failed_(std::move(failed)),
      work_(io_.get_executor()),
      // A duplicate: Asio closes what it watches, and the worker closes its own.
      events_(io_, duplicate(worker.event_descriptor())) {}

UcxLoop::~UcxLoop() {
  stop();
}

void UcxLoop::start() {
  thread_ = std::thread([this] {
    try {
      run();
    } catch (const std::exception& e) {
      failed_(e.what());
    }
  });
}

void UcxLoop::stop() {
  if (!thread_.joinable()) return;
  post([this] { stopped_ = true; });
  thread_.join();
}

void UcxLoop::post(Task task) {
  const std::lock_guard lock(mutex_);
  tasks_.push_back(std::move(task));
  if (std::exchange(sleeping_, false)) boost::asio::post(io_, [] {});
}

void UcxLoop::after(std::chrono::milliseconds delay, Task task) {
  auto timer = std::make_shared<boost::asio::steady_timer>(io_, delay);
  timer->async_wait([timer, task = std::move(task)](const boost::system::error_code& error) {
    if (!error) task();
  });
}

void UcxLoop::run() {
  auto idle_since = Clock::now();
  auto timers_seen = idle_since;
  while (!stopped_) {
    bool busy = run_tasks();
    for (int i = 0; !resting_ && i < kProgressBurst && worker_.progress(); ++i) busy = true;
    const auto now = Clock::now();
    if (now - timers_seen > kTimers) {
      io_.poll();
      timers_seen = now;
    }
    if (busy) {
      idle_since = now;
    } else if (now - idle_since > kPoll && (resting_ || worker_.arm())) {
      sleep();
      idle_since = timers_seen = Clock::now();
    } else {
      // Whom this loop waits for may want this core: a full shared-memory queue keeps the sender from
      // sleeping.
      std::this_thread::yield();
    }
  }
}

bool UcxLoop::run_tasks() {
  std::vector<Task> tasks;
  {
    const std::lock_guard lock(mutex_);
    tasks.swap(tasks_);
  }
  for (const Task& task : tasks) task();
  return !tasks.empty();
}

void UcxLoop::sleep() {
  {
    const std::lock_guard lock(mutex_);
    if (!tasks_.empty()) return;
    sleeping_ = true;
  }
  if (!watching_events_ && !resting_) {
    watching_events_ = true;
    events_.async_wait(boost::asio::posix::descriptor_base::wait_read,
                       [this](const boost::system::error_code&) { watching_events_ = false; });
  }
  io_.run_one();
  io_.poll();
  const std::lock_guard lock(mutex_);
  sleeping_ = false;
}

}  // namespace penstock
