#include "runtime/pipeline/runner.h"

#include <algorithm>
#include <chrono>
#include <thread>
#include <utility>

#include "runtime/pipeline/forward_in_parts.h"

namespace penstock {
namespace {

/// Forwards that the device may be asked for and not be through with: the one at work, and the next.
constexpr size_t kAskedAhead = 2;
constexpr std::chrono::microseconds kNap{20};

int64_t tokens_of(const proto::Plan& plan) {
  int64_t tokens = 0;
  for (const auto& row : plan.rows()) tokens += row.tokens_size();
  return tokens;
}

Bytes bytes_in(const TensorView& view) {
  return {view.as<std::byte>(), view.bytes()};
}

void put(const Sampled& sampled, uint64_t sequence, proto::SampledToken& token) {
  token.set_sequence(sequence);
  token.set_token(static_cast<uint32_t>(sampled.token));
  token.set_logprob(sampled.logprob);
  token.set_rank(static_cast<uint32_t>(sampled.rank));
  for (const TokenLogprob& t : sampled.top) {
    token.add_top_tokens(static_cast<uint32_t>(t.token));
    token.add_top_logprobs(t.logprob);
  }
}

proto::StepResult to_result(const proto::Plan& plan, const std::vector<Sampled>& sampled) {
  proto::StepResult result;
  result.set_step(plan.step());
  size_t i = 0;
  for (const auto& row : plan.rows()) {
    for (int t = 0; t < row.targets_size(); ++t) put(sampled.at(i++), row.sequence(), *result.add_scored());
    if (row.has_sampling()) put(sampled.at(i++), row.sequence(), *result.add_tokens());
  }
  ensure(i == sampled.size(), "one sampled token for each row that asked for one");
  return result;
}

}  // namespace

/// A Stopwatch, unless the device is at work meanwhile: then the time is the forward's.
class Runner::IdleWatch {
 public:
  IdleWatch(Runner& runner, proto::Activity activity, uint64_t step) {
    if (runner.under_way_.empty()) watch_.emplace(runner.meter_, activity, step);
  }

 private:
  std::optional<Stopwatch> watch_;
};

Runner::Runner(Stage& stage, Device& device, World& world, RunnerEdges edges, const Schedule& schedule,
               const RunnerOptions& options, PlanSource* source)
    : stage_(stage),
      device_(device),
      world_(world),
      schedule_(schedule),
      options_(options),
      source_(source),
      edges_(std::move(edges)),
      slots_(static_cast<size_t>(schedule.micro_batches)),
      step_of_kind_(256, 0),
      meter_(options.first_rank + options.stage, options.trace) {
  ensure(stage.is_first() == (source != nullptr), "the first stage, and only it, plans");
  ensure(stage.is_first() == (edges_.in == nullptr) && stage.is_last() == (edges_.out == nullptr),
         "a stage has an edge to each neighbour");
  for (Slot& slot : slots_) {
    const Shape shape{options.max_tokens, stage.hidden_size()};
    if (!stage.is_first()) slot.in_TD = device.tensor(DType::f32, shape);
    if (!stage.is_last()) slot.out_TD = device.tensor(DType::f32, shape);
  }
  device.synchronize();  // earlier work may use what this memory was before, and messages arrive at once
}

size_t Runner::buffer_bytes(const Stage& stage, const Schedule& schedule, const RunnerOptions& options) {
  const size_t each = static_cast<size_t>(options.max_tokens * stage.hidden_size()) * bytes_of(DType::f32);
  const size_t ends = (stage.is_first() ? 0 : 1) + (stage.is_last() ? 0 : 1);
  return static_cast<size_t>(schedule.micro_batches) * ends * each;
}

std::string Runner::current_action() const {
  return current_.text() + ", step " + std::to_string(current_step_);
}

proto::StageReport Runner::run() {
  const Program& program = schedule_.programs[static_cast<size_t>(options_.stage)];
  play(program.warm_up);
  while (!finished_) play(program.steady);
  while (!under_way_.empty()) settle_oldest();
  for (Slot& slot : slots_)
    if (slot.sending) slot.sending->wait();
  return meter_.report(StageMeter::Clock::now());
}

void Runner::play(const std::vector<Action>& actions) {
  for (const Action& action : actions) {
    if (finished_) return;
    Slot& slot = slots_[static_cast<size_t>(action.slot)];
    const uint64_t step = step_of_kind_[static_cast<size_t>(action.kind)]++;
    current_ = action;
    current_step_ = step;
    switch (action.kind) {
      case ActionKind::post_receive:
        post_receive(step);
        break;
      case ActionKind::forward:
        forward(slot, action.slot, step);
        break;
      case ActionKind::send:
        send(slot, step);
        break;
      case ActionKind::give_back:
        break;  // when the forward is settled, which has happened where it was done at once
      case ActionKind::take_in:
        take_in(slot, action.slot);
        break;
    }
  }
}

bool Runner::idle() const {
  for (const Slot& slot : slots_)
    if (slot.plan) return false;
  return true;
}

void Runner::start_receive(Slot& slot, const proto::Plan& plan) {
  const TensorView in_TD = slot.in_TD.view.first(tokens_of(plan));
  slot.receiving = edges_.in->receive(bytes_in(in_TD));
}

// A receive is as long as its plan says. With look-ahead the plan may not be known yet (rank 0 had nothing to
// run); then a later action posts it, still in order of steps, which is the order of sending.
void Runner::post_receive(uint64_t step) {
  take_messages();
  for (const proto::Plan& plan : known_plans_) {
    if (plan.step() > step) break;
    Slot& slot = slots_[plan.step() % slots_.size()];
    if (!slot.receiving) start_receive(slot, plan);
  }
}

void Runner::forward(Slot& slot, int slot_index, uint64_t step) {
  if (stage_.is_first()) {
    proto::Plan plan = source_->plan(slot_index);
    if (plan.rows().empty()) {
      if (idle()) {
        const Stopwatch watch(meter_, proto::ACTIVITY_WAIT_PLAN, step);
        finished_ = source_->finished_or_wait();
      }
      if (finished_)
        for (int s = 1; s < schedule_.stages; ++s)
          world_.control().send(options_.first_rank + s, ControlKind::finish, {});
      return;
    }
    plan.set_step(step);
    if (schedule_.stages > 1) {
      const std::string payload = plan.SerializeAsString();
      for (int s = 1; s < schedule_.stages; ++s)
        world_.control().send(options_.first_rank + s, ControlKind::plan, payload);
    }
    slot.plan = std::move(plan);
  } else {
    wait_for_plan();
    // Rank 0 leaves out steps in which it had nothing to run: their actions do nothing here either.
    if (known_plans_.empty() || known_plans_.front().step() != step) return;
    slot.plan = std::move(known_plans_.front());
    known_plans_.pop_front();
    if (!slot.receiving) start_receive(slot, *slot.plan);
    settle_until([&slot] { return slot.receiving->done(); });
    const IdleWatch watch(*this, proto::ACTIVITY_WAIT_INPUT, step);
    slot.receiving->wait();
    slot.receiving.reset();
  }

  const int64_t tokens = tokens_of(*slot.plan);
  if (tokens > options_.max_tokens)
    throw Error("a plan of " + std::to_string(tokens) + " tokens, expected at most " +
                std::to_string(options_.max_tokens));
  if (slot.sending) {  // out_TD may still be on its way from the last round
    const IdleWatch watch(*this, proto::ACTIVITY_SEND, step);
    slot.sending->wait();
    slot.sending.reset();
  }
  if (const uint64_t blocks = slot.plan->full_precision_blocks(); blocks > 0) {
    while (!under_way_.empty()) settle_oldest();
    stage_.allocate_full_precision_cache(static_cast<int64_t>(blocks));
  }
  while (under_way_.size() >= kAskedAhead) settle_oldest();
  if (under_way_.empty()) meter_.begin(proto::ACTIVITY_BUSY, step, StageMeter::Clock::now());
  const TensorView in_TD = stage_.is_first() ? TensorView{} : slot.in_TD.view.first(tokens);
  const TensorView out_TD = stage_.is_last() ? TensorView{} : slot.out_TD.view.first(tokens);
  DrawingPtr drawing =
      forward_in_parts(stage_, device_, *slot.plan, in_TD, out_TD, [this] { meter_.ran_out_of_memory(); });
  under_way_.push_back({slot_index, step, tokens, device_.mark(), std::move(drawing)});
  while (!under_way_.empty() && under_way_.front().end == nullptr) settle_oldest();
}

/// Waits for the oldest forward under way, and gives back what it drew.
void Runner::settle_oldest() {
  Forward forward = std::move(under_way_.front());
  under_way_.pop_front();
  const Action doing = std::exchange(current_, {options_.stage, ActionKind::forward, forward.slot});
  const uint64_t doing_step = std::exchange(current_step_, forward.step);
  while (forward.end && !forward.end->reached()) std::this_thread::sleep_for(kNap);
  const std::vector<Sampled> sampled = forward.drawing ? forward.drawing->take() : std::vector<Sampled>{};
  const StageMeter::Clock::time_point now = StageMeter::Clock::now();
  meter_.end(now, forward.tokens);
  if (!under_way_.empty()) meter_.begin(proto::ACTIVITY_BUSY, under_way_.front().step, now);
  if (const CacheRounding r = stage_.take_cache_rounding(); r.kept > 0) meter_.rounded(r.error, r.kept);
  if (const auto bad =
          std::count_if(sampled.begin(), sampled.end(), [](const Sampled& s) { return !s.finite; });
      bad > 0)
    meter_.drew_from_no_numbers(static_cast<uint64_t>(bad));
  if (stage_.is_last()) {
    Slot& slot = slots_[static_cast<size_t>(forward.slot)];
    give_back(slot, to_result(*slot.plan, sampled));
  }
  current_ = doing;
  current_step_ = doing_step;
}

/// Settles what ends while the device is at work and `ready` is false. The caller may wait in earnest
/// afterwards: nothing is under way then.
template <class Ready>
void Runner::settle_until(Ready ready) {
  while (!under_way_.empty() && !ready()) {
    if (under_way_.front().end->reached())
      settle_oldest();
    else
      std::this_thread::sleep_for(kNap);
  }
}

void Runner::give_back(Slot& slot, proto::StepResult result) {
  if (schedule_.stages == 1) {
    results_.push_back(std::move(result));
    return;
  }
  const IdleWatch watch(*this, proto::ACTIVITY_SEND, slot.plan->step());
  world_.control().send(options_.first_rank, ControlKind::step_result, result.SerializeAsString());
  slot.plan.reset();
}

void Runner::send(Slot& slot, uint64_t step) {
  if (!slot.plan || slot.plan->step() != step) return;
  const IdleWatch watch(*this, proto::ACTIVITY_SEND, step);
  const TensorView out_TD = slot.out_TD.view.first(tokens_of(*slot.plan));
  slot.sending = edges_.out->send(bytes_in(out_TD));
  meter_.sent(out_TD.bytes());
  if (!stage_.is_first()) slot.plan.reset();
}

void Runner::take_in(Slot& slot, int slot_index) {
  if (!slot.plan) return;
  settle_until([this] {
    if (schedule_.stages > 1) take_messages();
    return !results_.empty();
  });
  if (results_.empty()) {
    const IdleWatch watch(*this, proto::ACTIVITY_WAIT_INPUT, slot.plan->step());
    while (results_.empty()) store(world_.control().receive());
  }
  const proto::StepResult result = std::move(results_.front());
  results_.pop_front();
  if (result.step() != slot.plan->step())
    throw Error("tokens of step " + std::to_string(result.step()) + " came back, expected step " +
                std::to_string(slot.plan->step()));
  slot.plan.reset();
  source_->take_in(slot_index, result);
}

void Runner::take_messages() {
  ControlMessage message;
  while (world_.control().try_receive(message)) store(std::move(message));
}

void Runner::wait_for_plan() {
  settle_until([this] {
    take_messages();
    return !known_plans_.empty() || finished_;
  });
  const IdleWatch watch(*this, proto::ACTIVITY_WAIT_PLAN, current_step_);
  take_messages();
  while (known_plans_.empty() && !finished_) store(world_.control().receive());
}

void Runner::store(ControlMessage message) {
  switch (message.kind) {
    case ControlKind::plan: {
      proto::Plan plan;
      if (stage_.is_first() || !plan.ParseFromString(message.payload) || plan.rows().empty())
        throw Error("rank " + std::to_string(message.from) + " sent a plan that cannot be read");
      known_plans_.push_back(std::move(plan));
      return;
    }
    case ControlKind::step_result: {
      proto::StepResult result;
      if (!stage_.is_first() || results_.size() == slots_.size() || !result.ParseFromString(message.payload))
        throw Error("rank " + std::to_string(message.from) +
                    " sent tokens that cannot be read or were not due");
      results_.push_back(std::move(result));
      return;
    }
    case ControlKind::finish:
      finished_ = true;
      return;
    case ControlKind::stage_report:
    case ControlKind::live_report:
    case ControlKind::plan_request:
    case ControlKind::plan_reply:
      break;
  }
  throw Error("rank " + std::to_string(message.from) + " sent control message " +
              std::to_string(static_cast<int>(message.kind)) + ", which nobody waits for here");
}

}  // namespace penstock
