// What threads of a rank sleep on: the end of one transfer, and the next control message. Both are woken by a
// fault, which is kept as plain data so that every waiter throws an exception object of its own. Any thread
// may call anything here.
#pragma once

#include <array>
#include <atomic>
#include <condition_variable>
#include <cstddef>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <string>

#include "runtime/base/error.h"
#include "runtime/comm/world.h"

namespace penstock {

/// Why a wait ends with an exception.
struct Fault {
  static constexpr int kThisTransfer = -1;

  std::string message;
  ExitStatus status = ExitStatus::runtime_failure;
  int failed_rank =
      kThisTransfer;  ///< the rank that ended the world; kThisTransfer: only this transfer failed
};

/// The Fault of a receive whose message has another size than its buffer.
Fault wrong_size(int from, size_t posted_bytes, size_t message_bytes);

/// Throws WorldAborted for the end of the world, Error for the failure of one transfer.
[[noreturn]] void raise(const Fault& fault);

/// The end of one transfer, shared by the one who waits and the one who moves the bytes.
class Completion {
 public:
  void complete();
  void fail(const Fault& fault);
  bool done() const { return done_.load(std::memory_order_acquire); }
  /// Polls for some microseconds, then sleeps. Throws as raise() does.
  void wait();

 private:
  void finish(std::optional<Fault> fault);

  std::atomic<bool> done_{false};
  std::mutex mutex_;
  std::condition_variable changed_;
  std::optional<Fault> fault_;  // written before done_
};
using CompletionPtr = std::shared_ptr<Completion>;

/// A Transfer that ends when its completion does.
TransferPtr make_transfer(CompletionPtr completion);

/// One rank's queues of control messages, one a line; live reports pass them by. After a fault nothing is
/// handed out any more.
class Inbox {
 public:
  using Hearer = std::function<void(const ControlMessage&)>;

  void push(ControlMessage message);
  void hear_live_reports(Hearer hear);
  void fail(const Fault& fault);
  ControlMessage pop(Line line);
  /// Of Line::steps.
  bool try_pop(ControlMessage& message);

 private:
  struct Queue {
    std::condition_variable changed;
    std::deque<ControlMessage> messages;
  };
  Queue& queue(Line line) { return queues_[static_cast<size_t>(line)]; }

  std::mutex mutex_;             // guards the queues and the fault
  std::array<Queue, 3> queues_;  // by Line
  std::optional<Fault> fault_;
  std::mutex hearing_;  // held while the hearer runs
  Hearer hear_;
};

}  // namespace penstock
