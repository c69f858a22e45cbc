// The thread of a rank that moves messages while the runner computes: it alone calls UCX. It polls for some
// tens of microseconds after the last event, then sleeps in Boost.Asio on the worker's event descriptor, on
// timers and on tasks that other threads hand over.
#pragma once

#include <boost/asio/executor_work_guard.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/posix/stream_descriptor.hpp>
#include <chrono>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

#include "runtime/comm/ucx_handles.h"

namespace penstock {

class UcxLoop {
 public:
  using Task = std::function<void()>;

  /// `failed` is called on the loop's thread with the message of an exception that ended it.
  UcxLoop(UcxWorker& worker, std::function<void(const std::string&)> failed);
  ~UcxLoop();
  UcxLoop(const UcxLoop&) = delete;
  UcxLoop& operator=(const UcxLoop&) = delete;

  void start();
  /// Runs the tasks posted so far, then ends the thread. After this, tasks that are posted do not run.
  void stop();

  /// Runs the task on the loop's thread, in order of posting. Any thread. Never inside a UCX callback.
  void post(Task task);
  /// From now on only tasks and timers run: UCX is left alone. Loop's thread, or any when the loop has
  /// stopped.
  void rest() { resting_ = true; }
  /// Runs the task on the loop's thread after the delay. Only from the loop's thread, or before start().
  void after(std::chrono::milliseconds delay, Task task);

 private:
  void run();
  bool run_tasks();
  void sleep();

  UcxWorker& worker_;
  std::function<void(const std::string&)> failed_;
  boost::asio::io_context io_{1};
  boost::asio::executor_work_guard<boost::asio::io_context::executor_type> work_;
  boost::asio::posix::stream_descriptor events_;
  bool watching_events_ = false;
  bool resting_ = false;
  bool stopped_ = false;

  std::mutex mutex_;  // guards what follows
  std::vector<Task> tasks_;
  bool sleeping_ = false;

  std::thread thread_;
};

}  // namespace penstock
