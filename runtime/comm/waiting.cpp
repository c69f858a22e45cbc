#include "runtime/comm/waiting.h"

#include <chrono>
#include <utility>

namespace penstock {
namespace {

// Longer than a hand-over between two running threads, far shorter than a sleep and a wake-up cost.
constexpr std::chrono::microseconds kPoll{5};

class CompletionTransfer : public Transfer {
 public:
  explicit CompletionTransfer(CompletionPtr completion) : completion_(std::move(completion)) {}
  bool done() const override { return completion_->done(); }
  void wait() override { completion_->wait(); }

 private:
  CompletionPtr completion_;
};

Line line_of(ControlKind kind) {
  switch (kind) {
    case ControlKind::plan_request:
    case ControlKind::plan_reply:
      return Line::planning;
    case ControlKind::stage_report:
      return Line::reports;
    default:  // another program's kinds are the runner's to refuse
      return Line::steps;
  }
}

}  // namespace

Fault wrong_size(int from, size_t posted_bytes, size_t message_bytes) {
  return {"A message from rank " + std::to_string(from) + " has " + std::to_string(message_bytes) +
          " bytes, but the receive posted for it has " + std::to_string(posted_bytes) +
          ". Both ends of an edge must agree on the shape; this is a bug in Penstock."};
}

void raise(const Fault& fault) {
  if (fault.failed_rank == Fault::kThisTransfer) throw Error(fault.message, fault.status);
  throw WorldAborted(fault.message, fault.status, fault.failed_rank);
}

void Completion::complete() {
  finish(std::nullopt);
}

void Completion::fail(const Fault& fault) {
  finish(fault);
}

void Completion::finish(std::optional<Fault> fault) {
  const std::lock_guard lock(mutex_);
  if (done_.load(std::memory_order_relaxed)) return;
  fault_ = std::move(fault);
  done_.store(true, std::memory_order_release);
  changed_.notify_all();
}

void Completion::wait() {
  const auto stop_polling = std::chrono::steady_clock::now() + kPoll;
  while (!done() && std::chrono::steady_clock::now() < stop_polling) {
  }
  if (!done()) {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [this] { return done(); });
  }
  if (fault_) raise(*fault_);
}

TransferPtr make_transfer(CompletionPtr completion) {
  return std::make_unique<CompletionTransfer>(std::move(completion));
}

void Inbox::push(ControlMessage message) {
  if (message.kind == ControlKind::live_report) {
    const std::lock_guard lock(hearing_);
    if (hear_) hear_(message);
    return;
  }
  const std::lock_guard lock(mutex_);
  Queue& line = queue(line_of(message.kind));
  line.messages.push_back(std::move(message));
  line.changed.notify_one();
}

void Inbox::hear_live_reports(Hearer hear) {
  const std::lock_guard lock(hearing_);
  hear_ = std::move(hear);
}

void Inbox::fail(const Fault& fault) {
  const std::lock_guard lock(mutex_);
  if (!fault_) fault_ = fault;
  for (Queue& line : queues_) line.changed.notify_all();
}

ControlMessage Inbox::pop(Line line) {
  Queue& own = queue(line);
  std::unique_lock lock(mutex_);
  own.changed.wait(lock, [&] { return !own.messages.empty() || fault_; });
  if (fault_) raise(*fault_);
  ControlMessage message = std::move(own.messages.front());
  own.messages.pop_front();
  return message;
}

bool Inbox::try_pop(ControlMessage& message) {
  const std::lock_guard lock(mutex_);
  if (fault_) raise(*fault_);
  std::deque<ControlMessage>& messages = queue(Line::steps).messages;
  if (messages.empty()) return false;
  message = std::move(messages.front());
  messages.pop_front();
  return true;
}

}  // namespace penstock
