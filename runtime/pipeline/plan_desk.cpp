#include "runtime/pipeline/plan_desk.h"

#include <algorithm>
#include <utility>

namespace penstock {

PlanDesk::PlanDesk(Planner& planner, World& world, const Layout& layout)
    : planner_(planner),
      world_(world),
      layout_(layout),
      waits_(static_cast<size_t>(layout.replicas)),
      unfinished_(layout.replicas - 1) {
  if (layout.replicas > 1) server_ = std::thread([this] { serve(); });
}

PlanDesk::~PlanDesk() {
  if (!server_.joinable()) return;
  closing_ = true;
  world_.control().send(0, ControlKind::plan_request, {});
  server_.join();
}

proto::Plan PlanDesk::plan(int slot) {
  const std::lock_guard lock(mutex_);
  rethrow_failure();
  return planner_.plan(0, slot);
}

void PlanDesk::take_in(int slot, const proto::StepResult& result) {
  {
    const std::lock_guard lock(mutex_);
    rethrow_failure();
    planner_.take_in(0, slot, result);
  }
  tell();
}

bool PlanDesk::finished_or_wait() {
  const auto news = [this] {
    const std::lock_guard lock(news_mutex_);
    return news_;
  };
  for (;;) {
    const uint64_t known = news();
    {
      const std::lock_guard lock(mutex_);
      rethrow_failure();
      if (const std::optional<bool> finished = planner_.finished(0)) return *finished;
    }
    std::unique_lock lock(news_mutex_);
    news_told_.wait(lock, [&] { return news_ != known; });
  }
}

void PlanDesk::wake_first() {
  const std::lock_guard lock(news_mutex_);
  ++news_;
  news_told_.notify_all();
}

void PlanDesk::tell() {
  wake_first();
  if (others_wait_) world_.control().send(0, ControlKind::plan_request, {});
}

void PlanDesk::finish() {
  if (server_.joinable()) server_.join();
  rethrow_failure();
}

void PlanDesk::rethrow_failure() const {
  if (failure_) std::rethrow_exception(failure_);
}

// ---- the other replicas ----

// Whatever ends this thread early is thrown where replica 0 comes to the desk next.
void PlanDesk::serve() {
  try {
    while (unfinished_ > 0) {
      const ControlMessage message = world_.control().receive(Line::planning);
      if (closing_) return;
      const std::lock_guard lock(mutex_);
      answer(message);
    }
  } catch (...) {
    const std::lock_guard lock(mutex_);
    failure_ = std::current_exception();
  }
  tell();
}

void PlanDesk::answer(const ControlMessage& message) {
  proto::PlanRequest request;
  const int replica = layout_.replica_of(message.from);
  if (message.from != layout_.first_rank(replica) || !request.ParseFromString(message.payload))
    throw Error("rank " + std::to_string(message.from) + " sent a request for a plan that cannot be read");
  const auto slot = static_cast<int>(request.slot());
  switch (request.what()) {
    case proto::PlanRequest::PLAN: {
      proto::PlanReply reply;
      *reply.mutable_plan() = planner_.plan(replica, slot);
      world_.control().send(message.from, ControlKind::plan_reply, reply.SerializeAsString());
      return;
    }
    case proto::PlanRequest::TAKE_IN:
      planner_.take_in(replica, slot, request.result());
      wake_first();
      break;
    case proto::PlanRequest::WAIT:
      waits_[static_cast<size_t>(replica)] = true;
      others_wait_ = true;  // before the planner is asked, so that no news falls between
      break;
    default:
      break;
  }
  answer_waiting();
}

void PlanDesk::answer_waiting() {
  for (int r = 1; r < layout_.replicas; ++r) {
    if (!waits_[static_cast<size_t>(r)]) continue;
    const std::optional<bool> finished = planner_.finished(r);
    if (!finished) continue;
    waits_[static_cast<size_t>(r)] = false;
    if (*finished) --unfinished_;
    proto::PlanReply reply;
    reply.set_finished(*finished);
    world_.control().send(layout_.first_rank(r), ControlKind::plan_reply, reply.SerializeAsString());
  }
  others_wait_ = std::find(waits_.begin(), waits_.end(), true) != waits_.end();
}

proto::PlanReply RemotePlans::ask(const proto::PlanRequest& request) {
  world_.control().send(0, ControlKind::plan_request, request.SerializeAsString());
  const ControlMessage message = world_.control().receive(Line::planning);
  proto::PlanReply reply;
  if (message.kind != ControlKind::plan_reply || message.from != 0 || !reply.ParseFromString(message.payload))
    throw Error("rank " + std::to_string(message.from) + " sent no plan that can be read");
  return reply;
}

proto::Plan RemotePlans::plan(int slot) {
  proto::PlanRequest request;
  request.set_what(proto::PlanRequest::PLAN);
  request.set_slot(static_cast<uint32_t>(slot));
  proto::PlanReply reply = ask(request);
  return std::move(*reply.mutable_plan());
}

void RemotePlans::take_in(int slot, const proto::StepResult& result) {
  proto::PlanRequest request;
  request.set_what(proto::PlanRequest::TAKE_IN);
  request.set_slot(static_cast<uint32_t>(slot));
  *request.mutable_result() = result;
  world_.control().send(0, ControlKind::plan_request, request.SerializeAsString());
}

bool RemotePlans::finished_or_wait() {
  proto::PlanRequest request;
  request.set_what(proto::PlanRequest::WAIT);
  return ask(request).finished();
}

}  // namespace penstock
