// A world inside one process: every rank is a thread, a message is copied once, from the sender's buffer into
// the receiver's, by whichever of the two comes second.
#include <cstring>
#include <deque>
#include <utility>

#include "runtime/base/log.h"
#include "runtime/comm/host.h"
#include "runtime/comm/waiting.h"
#include "runtime/comm/world.h"

namespace penstock {
namespace {

/// One direction between two ranks. At any time at most one of the two queues holds something.
class Edge {
 public:
  explicit Edge(int from) : from_(from) {}

  TransferPtr send(ConstBytes message) {
    auto sent = std::make_shared<Completion>();
    const std::lock_guard lock(mutex_);
    if (fault_) raise(*fault_);
    sends_.push_back({message, sent});
    match();
    return make_transfer(std::move(sent));
  }

  TransferPtr receive(Bytes buffer) {
    auto received = std::make_shared<Completion>();
    const std::lock_guard lock(mutex_);
    if (fault_) raise(*fault_);
    receives_.push_back({buffer, received});
    match();
    return make_transfer(std::move(received));
  }

  /// After this no buffer is touched again: the waiters may free them.
  void fail(const Fault& fault) {
    const std::lock_guard lock(mutex_);
    if (fault_) return;
    fault_ = fault;
    for (const PendingSend& send : sends_) send.completion->fail(fault);
    for (const PendingReceive& receive : receives_) receive.completion->fail(fault);
    sends_.clear();
    receives_.clear();
  }

 private:
  struct PendingSend {
    ConstBytes message;
    CompletionPtr completion;
  };
  struct PendingReceive {
    Bytes buffer;
    CompletionPtr completion;
  };

  void match() {
    while (!sends_.empty() && !receives_.empty()) {
      const PendingSend send = std::exchange(sends_.front(), {});
      const PendingReceive receive = std::exchange(receives_.front(), {});
      sends_.pop_front();
      receives_.pop_front();
      if (send.message.size() == receive.buffer.size()) {
        if (!send.message.empty())
          std::memcpy(receive.buffer.data(), send.message.data(), send.message.size());
        receive.completion->complete();
      } else {
        receive.completion->fail(wrong_size(from_, receive.buffer.size(), send.message.size()));
      }
      send.completion->complete();
    }
  }

  const int from_;
  std::mutex mutex_;
  std::deque<PendingSend> sends_;
  std::deque<PendingReceive> receives_;
  std::optional<Fault> fault_;
};

/// What the ranks of one loopback world share.
class Hub {
 public:
  explicit Hub(int size)
      : size_(size), inboxes_(static_cast<size_t>(size)), texts_(static_cast<size_t>(size)) {
    for (int from = 0; from < size; ++from) {
      infos_.push_back(this_process(from));
      for (int to = 0; to < size; ++to) edges_.emplace_back(from);
    }
  }

  int size() const { return size_; }
  const RankInfo& info(int rank) const { return infos_.at(index(rank)); }
  StopRequests& stop_requests() { return stop_requests_; }
  Inbox& inbox(int rank) { return inboxes_.at(index(rank)); }
  Edge& edge(int from, int to) { return edges_.at(index(from) * static_cast<size_t>(size_) + index(to)); }

  void abort(int rank, const std::string& reason, ExitStatus status) {
    const Fault fault{size_ == 1 ? reason : "rank " + std::to_string(rank) + ": " + reason, status, rank};
    {
      const std::lock_guard lock(mutex_);
      if (fault_) return;
      fault_ = fault;
      changed_.notify_all();
    }
    log::error(fault.message);
    for (Edge& edge : edges_) edge.fail(fault);
    for (Inbox& inbox : inboxes_) inbox.fail(fault);
  }

  std::vector<std::string> gather_all(int rank, const std::string& mine) {
    std::unique_lock lock(mutex_);
    // Texts of this round go into `texts_`; the last to come publishes them, so that a fast rank's next round
    // cannot overwrite what a slow one has not read.
    texts_[index(rank)] = mine;
    const int64_t round = round_;
    if (++arrived_ == size_) {
      gathered_ = std::make_shared<const std::vector<std::string>>(texts_);
      arrived_ = 0;
      ++round_;
      changed_.notify_all();
    } else {
      changed_.wait(lock, [&] { return round_ != round || fault_; });
    }
    if (round_ == round) raise(*fault_);
    return *gathered_;
  }

 private:
  size_t index(int rank) const {
    ensure(rank >= 0 && rank < size_, "a rank outside this world");
    return static_cast<size_t>(rank);
  }

  const int size_;
  std::vector<RankInfo> infos_;
  std::deque<Edge> edges_;  // from rank 0 to each, from rank 1 to each, ...; a mutex does not move
  std::deque<Inbox> inboxes_;
  StopRequests stop_requests_;

  std::mutex mutex_;  // guards what follows
  std::condition_variable changed_;
  std::optional<Fault> fault_;
  std::vector<std::string> texts_;
  std::shared_ptr<const std::vector<std::string>> gathered_;
  int arrived_ = 0;
  int64_t round_ = 0;
};

class LoopbackSender : public Sender {
 public:
  LoopbackSender(std::shared_ptr<Hub> hub, Edge& edge) : hub_(std::move(hub)), edge_(edge) {}
  TransferPtr send(ConstBytes message) override { return edge_.send(message); }

 private:
  std::shared_ptr<Hub> hub_;  // keeps the edge alive
  Edge& edge_;
};

class LoopbackReceiver : public Receiver {
 public:
  LoopbackReceiver(std::shared_ptr<Hub> hub, Edge& edge) : hub_(std::move(hub)), edge_(edge) {}
  TransferPtr receive(Bytes buffer) override { return edge_.receive(buffer); }

 private:
  std::shared_ptr<Hub> hub_;
  Edge& edge_;
};

class LoopbackControl : public ControlPlane {
 public:
  LoopbackControl(Hub& hub, int rank) : hub_(hub), rank_(rank) {}
  void send(int to, ControlKind kind, std::string payload) override {
    hub_.inbox(to).push({rank_, kind, std::move(payload)});
  }
  ControlMessage receive(Line line) override { return hub_.inbox(rank_).pop(line); }
  bool try_receive(ControlMessage& message) override { return hub_.inbox(rank_).try_pop(message); }
  void hear_live_reports(std::function<void(const ControlMessage&)> hear) override {
    hub_.inbox(rank_).hear_live_reports(std::move(hear));
  }

 private:
  Hub& hub_;
  int rank_;
};

class LoopbackWorld : public World {
 public:
  LoopbackWorld(std::shared_ptr<Hub> hub, int rank)
      : hub_(std::move(hub)), rank_(rank), control_(*hub_, rank) {}
  ~LoopbackWorld() override {
    if (!finished_ && size() > 1) abort("this rank ended before the job did", ExitStatus::runtime_failure);
  }

  int rank() const override { return rank_; }
  int size() const override { return hub_->size(); }
  int local_size() const override { return hub_->size(); }
  int local_rank() const override { return rank_; }
  const RankInfo& info(int rank) const override { return hub_->info(rank); }
  ControlPlane& control() override { return control_; }
  std::unique_ptr<Sender> sender(int to) override {
    return std::make_unique<LoopbackSender>(hub_, hub_->edge(rank_, to));
  }
  std::unique_ptr<Receiver> receiver(int from) override {
    return std::make_unique<LoopbackReceiver>(hub_, hub_->edge(from, rank_));
  }
  std::vector<std::string> gather_all(const std::string& mine) override {
    return hub_->gather_all(rank_, mine);
  }
  void request_stop(const std::string& reason) override { hub_->stop_requests().add(rank_, reason); }
  StopRequests& stop_requests() override { return hub_->stop_requests(); }
  bool report_lost_peer() noexcept override { return false; }  // they are all this process
  void abort(const std::string& reason, ExitStatus status) noexcept override {
    hub_->abort(rank_, reason, status);
  }
  void finish() override {
    hub_->gather_all(rank_, {});
    finished_ = true;
  }

 private:
  std::shared_ptr<Hub> hub_;
  int rank_;
  LoopbackControl control_;
  bool finished_ = false;
};

}  // namespace

std::vector<std::unique_ptr<World>> make_loopback_world(int size) {
  ensure(size >= 1, "a world has at least one rank");
  const auto hub = std::make_shared<Hub>(size);
  std::vector<std::unique_ptr<World>> worlds;
  for (int rank = 0; rank < size; ++rank) worlds.push_back(std::make_unique<LoopbackWorld>(hub, rank));
  return worlds;
}

}  // namespace penstock
