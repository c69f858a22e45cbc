// Lets the runners of all replicas ask a BatchJob for plans: runtime/pipeline/ and runtime/requests/ stand on
// one floor and do not know each other.
#pragma once

#include "launch/guarding.h"
#include "runtime/metrics/request_metrics.h"
#include "runtime/pipeline/plan_desk.h"
#include "runtime/requests/batch_job.h"

namespace penstock {

class JobPlans final : private Planner {
 public:
  /// `requests` may be null: then nobody counts; and `guard`: then nobody steps back. All must outlive this.
  JobPlans(BatchJob& job, RequestMetrics* requests, Guarding* guard, World& world, const Layout& layout)
      : job_(job), requests_(requests), guard_(guard), desk_(*this, world, layout) {
    job_.hear_news([this] { desk_.tell(); });
  }
  ~JobPlans() override { job_.hear_news({}); }
  JobPlans(const JobPlans&) = delete;
  JobPlans& operator=(const JobPlans&) = delete;

  PlanDesk& desk() { return desk_; }

 private:
  proto::Plan plan(int replica, int slot) override {
    if (guard_ != nullptr) guard_->steer(job_);
    proto::Plan plan = job_.plan(replica, slot);
    if (requests_ != nullptr) requests_->planned(plan, RequestMetrics::Clock::now());
    return plan;
  }
  void take_in(int replica, int slot, const proto::StepResult& result) override {
    if (requests_ != nullptr) requests_->sampled(result, RequestMetrics::Clock::now());
    job_.take_in(replica, slot, result);
  }
  std::optional<bool> finished(int replica) override { return job_.finished(replica); }

  BatchJob& job_;
  RequestMetrics* requests_;
  Guarding* guard_;
  PlanDesk desk_;  // last: its thread calls the above
};

}  // namespace penstock
