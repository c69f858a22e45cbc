#include "runtime/requests/scheduler.h"

#include <algorithm>
#include <iterator>

#include "runtime/base/error.h"

namespace penstock {
namespace {

// Prefill chunks are not cut smaller than this by throttling: a chunk's matrix products should be worth their
// weight traffic.
constexpr int64_t kSmallestChunk = 64;
// Below this share of free blocks no new sequence is admitted while others run, so that those can grow if
// lengths were guessed too low.
constexpr double kFreeForGrowth = 0.01;

GeneratedToken token_of(const proto::SampledToken& sampled) {
  GeneratedToken token{
      static_cast<int32_t>(sampled.token()), sampled.logprob(), {}, static_cast<int32_t>(sampled.rank())};
  if (sampled.top_tokens_size() != sampled.top_logprobs_size())
    throw Error("the last stage sent " + std::to_string(sampled.top_tokens_size()) + " alternatives with " +
                std::to_string(sampled.top_logprobs_size()) + " log-probabilities");
  for (int i = 0; i < sampled.top_tokens_size(); ++i)
    token.top.emplace_back(static_cast<int32_t>(sampled.top_tokens(i)), sampled.top_logprobs(i));
  return token;
}

}  // namespace

int32_t Scheduler::Sequence::token(int64_t position) const {
  const auto prompt = static_cast<int64_t>(spec.prompt.size());
  return position < prompt ? spec.prompt[static_cast<size_t>(position)]
                           : generated[static_cast<size_t>(position - prompt)].id;
}

Scheduler::Scheduler(const SchedulerLimits& limits)
    : most_(limits),
      limits_(limits),
      pool_(limits.blocks),
      in_flight_(static_cast<size_t>(limits.micro_batches)) {
  ensure(limits.max_num_seqs > 0 && limits.max_num_batched_tokens > 0 && limits.block_size > 0,
         "scheduler limits are positive");
}

void Scheduler::add(SequenceSpec spec) {
  ensure(!spec.prompt.empty() && spec.max_tokens > 0, "a sequence has a prompt and may grow");
  auto sequence = std::make_unique<Sequence>();
  sequence->generated = std::move(spec.generated);
  sequence->scored = std::move(spec.scored);
  sequence->spec = std::move(spec);
  if (sequence->spec.make_ends) {
    sequence->ends = sequence->spec.make_ends();
    for (const GeneratedToken& token : sequence->generated) sequence->ends(token.id);
  }
  ensure(static_cast<int64_t>(sequence->generated.size()) < sequence->spec.max_tokens,
         "a sequence that goes on has tokens to generate");
  ensure(sequence->may_reach() <= longest_sequence(), "a sequence fits into the KV cache");
  waiting_.push_back(std::move(sequence));
}

void Scheduler::change_limits(int64_t max_num_seqs, int64_t max_num_batched_tokens, int64_t usable_blocks) {
  ensure(max_num_seqs > 0 && max_num_seqs <= most_.max_num_seqs && max_num_batched_tokens > 0 &&
             max_num_batched_tokens <= most_.max_num_batched_tokens && usable_blocks <= limits_.blocks,
         "limits stay positive and within those at first");
  limits_.max_num_seqs = max_num_seqs;
  limits_.max_num_batched_tokens = max_num_batched_tokens;
  pool_.withhold(limits_.blocks - usable_blocks);
}

proto::Plan Scheduler::plan(int slot) {
  std::vector<Sequence*>& rows = in_flight_[static_cast<size_t>(slot)];
  ensure(rows.empty(), "a slot is planned only after it was taken in");
  proto::Plan plan;
  plan_decodes(plan, rows);
  plan_prefills(plan, rows, prefill_budget(plan.rows_size()));
  if (!rows.empty()) {
    plan.mutable_forgotten()->Add(forgotten_.begin(), forgotten_.end());
    forgotten_.clear();
  }
  return plan;
}

// Oldest first, so that the oldest always gets the blocks it needs and the job always moves on.
void Scheduler::plan_decodes(proto::Plan& plan, std::vector<Sequence*>& rows) {
  int64_t decoding = 0;
  std::vector<Sequence*> ready;
  for (const SequencePtr& s : running_) {
    const bool decodes = s->decoding() || (s->in_flight && s->pending() == 0);
    decoding += decodes ? 1 : 0;
    if (decodes && !s->in_flight) ready.push_back(s.get());
  }
  const int64_t share = (decoding + limits_.micro_batches - 1) / limits_.micro_batches;
  const int64_t quota = std::min(share, limits_.max_num_batched_tokens);
  for (Sequence* s : ready) {
    if (plan.rows_size() >= quota) break;
    // Preempting another may have taken this one's blocks: then it waits again and is not ready.
    if (s->blocks.empty()) continue;
    if (grow(*s, 1, true)) schedule_row(plan, rows, *s, 1);
  }
}

void Scheduler::plan_prefills(proto::Plan& plan, std::vector<Sequence*>& rows, int64_t budget) {
  std::vector<Sequence*> begun;
  for (const SequencePtr& s : running_)
    if (!s->in_flight && !s->decoding() && s->pending() > 0) begun.push_back(s.get());
  for (Sequence* s : begun) {
    if (budget <= 0) return;
    const int64_t chunk = std::min(budget, s->pending());
    if (!grow(*s, chunk, false)) continue;
    budget -= chunk;
    schedule_row(plan, rows, *s, chunk);
  }
  std::optional<CacheForecast> expected;
  while (budget > 0 && !waiting_.empty() && static_cast<int64_t>(running_.size()) < limits_.max_num_seqs) {
    if (!expected) expected = forecast();
    Sequence* s = admit_next(*expected);
    if (s == nullptr) return;
    const int64_t chunk = std::min(budget, s->pending());
    budget -= chunk;
    schedule_row(plan, rows, *s, chunk);
  }
}

int64_t Scheduler::prefill_budget(int64_t decodes) const {
  const int64_t room = limits_.max_num_batched_tokens - decodes;
  int64_t pending = 0;
  for (const SequencePtr& s : running_)
    if (!s->in_flight && !s->decoding()) pending += s->pending();
  int64_t seats = limits_.max_num_seqs - static_cast<int64_t>(running_.size());
  for (const SequencePtr& s : waiting_) {
    if (seats-- <= 0) break;
    pending += s->pending();
  }
  // What waits is spread over the micro-batches in flight, so that no micro-batch takes everything and the
  // others run empty.
  const int64_t even = (pending + limits_.micro_batches - 1) / limits_.micro_batches;
  return std::min(room, std::max(even, kSmallestChunk));
}

// Blocks for `tokens` more tokens of a running sequence.
bool Scheduler::grow(Sequence& sequence, int64_t tokens, bool may_preempt) {
  const int64_t missing = blocks_for(sequence.stored + tokens) - static_cast<int64_t>(sequence.blocks.size());
  if (missing <= 0) return true;
  while (pool_.free() < missing)
    if (!may_preempt || !preempt_one_younger_than(sequence)) return false;
  return pool_.allocate(missing, sequence.blocks);
}

// Drops the blocks of the youngest sequence that is not in flight; it will be prefilled again later, with the
// same bits.
bool Scheduler::preempt_one_younger_than(const Sequence& sequence) {
  for (size_t i = running_.size(); i-- > 0;) {
    Sequence& victim = *running_[i];
    if (victim.admitted <= sequence.admitted) return false;
    if (victim.in_flight) continue;
    pool_.release(victim.blocks);
    victim.stored = 0;
    forget_rules(victim);
    ++preemptions_;
    waiting_.push_front(std::move(running_[i]));
    running_.erase(running_.begin() + static_cast<std::ptrdiff_t>(i));
    return true;
  }
  return false;
}

CacheForecast Scheduler::forecast() const {
  std::vector<CacheGrowth> running;
  running.reserve(running_.size());
  for (const SequencePtr& s : running_) running.push_back(growth_of(*s));
  return {pool_.usable(), limits_.block_size, std::move(running)};
}

// A sequence's last token is never put into the cache.
CacheGrowth Scheduler::growth_of(const Sequence& sequence) const {
  const auto generated = static_cast<int64_t>(sequence.generated.size());
  const int64_t most = sequence.spec.max_tokens;
  return {sequence.length() - 1,
          sequence.length_is_known() ? most - generated : answer_lengths_.expected_to_come(generated, most)};
}

bool Scheduler::lengths_are_known_with(const Sequence& sequence) const {
  return sequence.length_is_known() && std::all_of(running_.begin(), running_.end(),
                                                   [](const SequencePtr& r) { return r->length_is_known(); });
}

// One waits, and there is a seat. A sequence is admitted with blocks for all it has to prefill. One that runs
// alone needs no forecast: it fits.
Scheduler::Sequence* Scheduler::admit_next(CacheForecast& forecast) {
  auto next = waiting_.begin();
  if (input_ended_ && (*next)->generated.empty())
    next = std::max_element(waiting_.begin(), waiting_.end(), [](const SequencePtr& a, const SequencePtr& b) {
      return a->may_reach() < b->may_reach();
    });
  Sequence& s = **next;
  const int64_t needed = blocks_for(s.pending());
  const auto reserve = static_cast<int64_t>(kFreeForGrowth * static_cast<double>(pool_.total()));
  if (!running_.empty() && pool_.free() - needed < reserve && !lengths_are_known_with(s)) return nullptr;
  if (!forecast.add(growth_of(s)) && !running_.empty()) return nullptr;
  if (!pool_.allocate(needed, s.blocks)) return nullptr;
  s.admitted = admissions_++;
  running_.push_back(std::move(*next));
  waiting_.erase(next);
  return running_.back().get();
}

void Scheduler::schedule_row(proto::Plan& plan, std::vector<Sequence*>& rows, Sequence& sequence,
                             int64_t tokens) {
  auto* row = plan.add_rows();
  row->set_sequence(sequence.spec.id);
  row->set_start(static_cast<uint32_t>(sequence.stored));
  for (int64_t i = 0; i < tokens; ++i)
    row->add_tokens(static_cast<uint32_t>(sequence.token(sequence.stored + i)));
  row->mutable_blocks()->Add(sequence.blocks.begin(), sequence.blocks.end());
  if (sequence.spec.prompt_logprobs) ask_for_scores(*row, sequence);
  sequence.stored += tokens;
  if (sequence.pending() == 0) put_sampling(*row, sequence);
  sequence.in_flight = true;
  rows.push_back(&sequence);
}

// The token at position p gives the score of the one at p + 1. What was scored before a preemption is not
// asked for again.
void Scheduler::ask_for_scores(proto::PlannedRow& row, const Sequence& sequence) const {
  const auto prompt = static_cast<int64_t>(sequence.spec.prompt.size());
  const int64_t begin = std::max(sequence.stored, static_cast<int64_t>(sequence.scored.size()));
  const int64_t end = std::min(sequence.stored + row.tokens_size(), prompt - 1);
  if (begin >= end) return;
  row.set_score_from(static_cast<uint32_t>(begin - sequence.stored));
  row.set_score_logprobs(static_cast<uint32_t>(*sequence.spec.prompt_logprobs));
  for (int64_t p = begin; p < end; ++p) row.add_targets(static_cast<uint32_t>(sequence.token(p + 1)));
}

void Scheduler::put_sampling(proto::PlannedRow& row, Sequence& sequence) {
  proto::Sampling& sampling = *row.mutable_sampling() = sequence.spec.sampling;
  sampling.set_position(static_cast<uint32_t>(sequence.generated.size()));
  if (sequence.spec.rules == nullptr || sequence.spec.rules->empty()) return;
  std::vector<int32_t> generated;
  for (const GeneratedToken& t : sequence.generated) generated.push_back(t.id);
  put_rules(*sequence.spec.rules, sequence.spec.prompt, generated, !sequence.rules_known, sampling);
  sequence.rules_known = sequence.spec.rules->any_fixed;
}

void Scheduler::forget_rules(Sequence& sequence) {
  if (sequence.rules_known) forgotten_.push_back(sequence.spec.id);
  sequence.rules_known = false;
}

// Scores come in the order of the plan's rows, as they were asked for.
void Scheduler::take_scores(const std::vector<Sequence*>& rows, const proto::StepResult& result) {
  int next = 0;
  for (Sequence* s : rows)
    while (next < result.scored_size() && result.scored(next).sequence() == s->spec.id) {
      const auto place = s->scored.size() + 1;
      if (!s->spec.prompt_logprobs || place >= s->spec.prompt.size() ||
          static_cast<int32_t>(result.scored(next).token()) != s->spec.prompt[place])
        break;
      s->scored.push_back(token_of(result.scored(next++)));
    }
  if (next != result.scored_size())
    throw Error("the last stage's prompt scores do not match the plan: expected " + std::to_string(next) +
                ", found " + std::to_string(result.scored_size()));
}

std::vector<FinishedSequence> Scheduler::complete(int slot, const proto::StepResult& result) {
  std::vector<Sequence*>& rows = in_flight_[static_cast<size_t>(slot)];
  std::vector<FinishedSequence> finished;
  take_scores(rows, result);
  int next = 0;
  for (Sequence* s : rows) {
    s->in_flight = false;
    if (s->pending() > 0) continue;  // a prefill chunk that was not the last
    if (next >= result.tokens_size() || result.tokens(next).sequence() != s->spec.id)
      throw Error("the last stage's tokens do not match the plan: expected one for sequence " +
                  std::to_string(s->spec.id));
    const proto::SampledToken& sampled = result.tokens(next++);
    s->generated.push_back(token_of(sampled));

    const std::vector<int32_t>& stops = s->spec.stop_tokens;
    const int32_t last = s->generated.back().id;
    const bool stopped =
        std::find(stops.begin(), stops.end(), last) != stops.end() || (s->ends && s->ends(last));
    if (!stopped && static_cast<int64_t>(s->generated.size()) < s->spec.max_tokens) continue;
    if (!s->length_is_known())
      answer_lengths_.ended(static_cast<int64_t>(s->generated.size()), s->spec.max_tokens);
    pool_.release(s->blocks);
    forget_rules(*s);
    finished.push_back({s->spec.id, std::move(s->generated),
                        stopped ? FinishReason::stop : FinishReason::length, std::move(s->scored)});
    std::erase_if(running_, [s](const SequencePtr& r) { return r.get() == s; });
  }
  if (next != result.tokens_size())
    throw Error("the last stage sent " + std::to_string(result.tokens_size()) + " tokens, expected " +
                std::to_string(next));
  rows.clear();
  return finished;
}

std::optional<SequenceSpec> Scheduler::hand_on() {
  if (waiting_.empty()) return std::nullopt;
  Sequence& last = *waiting_.back();
  SequenceSpec spec = std::move(last.spec);
  spec.generated = std::move(last.generated);
  spec.scored = std::move(last.scored);
  waiting_.pop_back();
  return spec;
}

bool Scheduler::in_flight() const {
  return std::any_of(in_flight_.begin(), in_flight_.end(), [](const auto& rows) { return !rows.empty(); });
}

// What ran comes first again, in the order of its admission.
void Scheduler::start_over(int64_t blocks) {
  ensure(!in_flight(), "nothing is in flight");
  waiting_.insert(waiting_.begin(), std::make_move_iterator(running_.begin()),
                  std::make_move_iterator(running_.end()));
  running_.clear();
  most_.blocks = blocks;
  limits_ = most_;
  pool_ = BlockPool(blocks);
  for (const SequencePtr& s : waiting_) {
    ensure(s->may_reach() <= longest_sequence(), "a sequence fits into the KV cache");
    s->blocks.clear();
    s->generated.clear();
    s->scored.clear();
    s->stored = 0;
    forget_rules(*s);
    if (s->spec.make_ends) s->ends = s->spec.make_ends();
  }
}

std::vector<FinishedSequence> Scheduler::give_up() {
  std::vector<FinishedSequence> unfinished;
  ensure(!in_flight(), "nothing is in flight");
  for (const SequencePtr& s : running_) {
    pool_.release(s->blocks);
    unfinished.push_back({s->spec.id, std::move(s->generated), FinishReason::length, std::move(s->scored)});
  }
  for (const SequencePtr& s : waiting_)
    unfinished.push_back({s->spec.id, std::move(s->generated), FinishReason::length, std::move(s->scored)});
  running_.clear();
  waiting_.clear();
  return unfinished;
}

}  // namespace penstock
