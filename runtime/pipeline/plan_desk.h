// Several replicas, one scheduler: it lives on rank 0, and the first stage of every replica gets its plans
// there. Rank 0's own runner calls the desk; the others' runners call RemotePlans, which asks the desk over
// the control plane. With one replica the desk has no thread and sends nothing.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <exception>
#include <mutex>
#include <optional>
#include <thread>
#include <vector>

#include "runtime/comm/world.h"
#include "runtime/pipeline/layout.h"
#include "runtime/pipeline/runner.h"

namespace penstock {

/// As PlanSource, for every replica. The desk calls it from one thread at a time.
class Planner {
 public:
  virtual ~Planner() = default;
  virtual proto::Plan plan(int replica, int slot) = 0;
  virtual void take_in(int replica, int slot, const proto::StepResult& result) = 0;
  /// Whether no plan for that replica will ever have rows again; nothing while that is open: then it is asked
  /// again after news. Asked when nothing of the replica is in flight and nothing could be planned.
  virtual std::optional<bool> finished(int replica) = 0;
};

/// On rank 0; as a PlanSource it is that of replica 0, for its runner's thread.
class PlanDesk final : public PlanSource {
 public:
  /// Serves the other replicas from now on. `planner` and `world` must outlive it.
  PlanDesk(Planner& planner, World& world, const Layout& layout);
  ~PlanDesk() override;
  PlanDesk(const PlanDesk&) = delete;
  PlanDesk& operator=(const PlanDesk&) = delete;

  // These throw what broke while another replica was served, too.
  proto::Plan plan(int slot) override;
  void take_in(int slot, const proto::StepResult& result) override;
  bool finished_or_wait() override;

  /// News: a replica that waits may have something to do now, or nothing any more. Any thread.
  void tell();

  /// Replica 0 has finished: returns when every other one has. Throws as the calls above.
  void finish();

 private:
  void serve();
  void answer(const ControlMessage& message);
  void answer_waiting();
  void wake_first();
  void rethrow_failure() const;

  Planner& planner_;
  World& world_;
  const Layout layout_;

  std::mutex mutex_;         // guards the planner and what follows
  std::vector<bool> waits_;  // by replica: it has been told nothing yet
  int unfinished_;           // replicas but the first
  std::exception_ptr failure_;

  std::mutex news_mutex_;  // guards news_
  std::condition_variable news_told_;
  uint64_t news_ = 0;
  std::atomic<bool> others_wait_{false};
  std::atomic<bool> closing_{false};
  std::thread server_;
};

/// For the first stage of a replica that is not rank 0's, on its runner's thread.
class RemotePlans final : public PlanSource {
 public:
  /// `world` must outlive it.
  explicit RemotePlans(World& world) : world_(world) {}

  proto::Plan plan(int slot) override;
  void take_in(int slot, const proto::StepResult& result) override;
  bool finished_or_wait() override;

 private:
  proto::PlanReply ask(const proto::PlanRequest& request);

  World& world_;
};

}  // namespace penstock
