// Which sequences run in which micro-batch. Continuous batching over a paged KV cache, with a budget a
// micro-batch: decodes spread evenly over the micro-batches in flight, prefill in chunks throttled by what
// waits and by free KV (as gLLM's token throttling, Guo et al. 2025). A sequence is admitted where the cache
// will hold it and all that run until they end, as far as can be told. Plain judgement: no device, no thread,
// no clock; not thread-safe.
//
// What is planned decides speed only. A sequence's tokens never depend on it (docs/architecture.md,
// "Numbers").
#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <optional>
#include <utility>
#include <vector>

#include "proto/plan.pb.h"
#include "runtime/requests/block_pool.h"
#include "runtime/requests/cache_forecast.h"
#include "runtime/requests/logit_rules.h"

namespace penstock {

struct SchedulerLimits {
  int64_t max_num_seqs = 256;            ///< sequences running at once, over all micro-batches
  int64_t max_num_batched_tokens = 512;  ///< tokens a micro-batch
  int64_t block_size = 16;
  int64_t blocks = 0;
  int micro_batches = 1;
};

enum class FinishReason { stop, length };
inline const char* name_of(FinishReason reason) {
  return reason == FinishReason::stop ? "stop" : "length";
}

struct GeneratedToken {
  int32_t id = 0;
  float logprob = 0;
  std::vector<std::pair<int32_t, float>> top;
  int32_t rank = 0;  ///< of a prompt token: how many tokens are at least as likely
};

/// One generation: one prompt, one sample index.
struct SequenceSpec {
  uint64_t id = 0;  ///< unique among live sequences
  std::vector<int32_t> prompt;
  int64_t max_tokens = 16;
  std::vector<int32_t> stop_tokens;  ///< end-of-sequence and stop ids; a generated one ends the sequence
  proto::Sampling sampling;          ///< position is filled in at planning
  std::shared_ptr<const LogitRules> rules{};  ///< null: none
  /// Alternatives to each prompt token's log-probability; nothing: no log-probabilities of the prompt.
  std::optional<int32_t> prompt_logprobs{};
  /// Makes what is told of every generated token once, in order; true ends the sequence with it. Called when
  /// the sequence begins, and again when it starts over. May be empty.
  std::function<std::function<bool(int32_t)>()> make_ends{};
  /// What an earlier job generated: the sequence goes on from there, with the bits it would have had. Fewer
  /// than max_tokens, none of which ends it.
  std::vector<GeneratedToken> generated{};
  /// With prompt_logprobs, what an earlier job scored: the prompt's tokens from the second on.
  std::vector<GeneratedToken> scored{};
};

struct FinishedSequence {
  uint64_t id = 0;
  std::vector<GeneratedToken> tokens;  ///< the stopping token included
  FinishReason reason = FinishReason::length;
  /// With prompt_logprobs: the prompt's tokens from the second on, of a sequence given up those scored.
  std::vector<GeneratedToken> prompt{};
};

class Scheduler {
 public:
  explicit Scheduler(const SchedulerLimits& limits);

  /// Longest sequence, prompt and answer, that the KV cache can hold.
  int64_t longest_sequence() const { return limits_.blocks * limits_.block_size; }

  /// `spec.prompt` holds at least one token, and prompt + max_tokens fit into longest_sequence().
  void add(SequenceSpec spec);
  /// No sequence will be added any more: from here on the longest waiting ones are admitted first, so that
  /// none of them is left running alone at the end.
  void input_ended() { input_ended_ = true; }
  /// Sequences that wait for their first admission. The caller keeps a few times max_num_seqs of them here.
  size_t waiting() const { return waiting_.size(); }
  size_t running() const { return running_.size(); }
  bool empty() const { return waiting_.empty() && running_.empty(); }

  /// The next micro-batch for `slot`; no rows when nothing can run now.
  proto::Plan plan(int slot);
  /// Takes in what `slot`'s micro-batch sampled and returns the sequences that ended by it.
  std::vector<FinishedSequence> complete(int slot, const proto::StepResult& result);

  /// Takes out the last sequence that waits, with the tokens it has so far, for another scheduler's add();
  /// nothing where none waits.
  std::optional<SequenceSpec> hand_on();

  /// Takes every sequence out, with the tokens it has so far; none may be in flight.
  std::vector<FinishedSequence> give_up();

  bool in_flight() const;
  /// Every sequence begins anew, with none of its tokens, over `blocks` KV blocks instead of those that there
  /// were; limits of change_limits() hold no more. None may be in flight; each fits into the new blocks.
  void start_over(int64_t blocks);

  /// From the next plan on. At most what it began with: stages have room for no more. What runs goes on until
  /// it ends or is preempted. `usable_blocks` holds any sequence that was or will be added.
  void change_limits(int64_t max_num_seqs, int64_t max_num_batched_tokens, int64_t usable_blocks);

  double kv_used_share() const { return pool_.used_share(); }
  int64_t preemptions() const { return preemptions_; }

 private:
  struct Sequence {
    SequenceSpec spec;
    std::function<bool(int32_t)> ends;  // may be empty
    std::vector<GeneratedToken> generated;
    std::vector<GeneratedToken> scored;  // of the prompt, from its second token on
    std::vector<uint32_t> blocks;
    bool rules_known = false;  // to the last stage, since it was admitted
    int64_t stored =
        0;  // tokens whose K and V are in the cache, or will be once the micro-batch in flight is done
    int64_t admitted = 0;  // order of admission; the youngest is preempted first
    bool in_flight = false;

    int64_t length() const { return static_cast<int64_t>(spec.prompt.size() + generated.size()); }
    int64_t pending() const { return length() - stored; }
    bool decoding() const { return !generated.empty() && pending() == 1; }
    int32_t token(int64_t position) const;
    /// Whether nothing but max_tokens ends it.
    bool length_is_known() const { return spec.stop_tokens.empty() && !ends; }
    int64_t may_reach() const { return static_cast<int64_t>(spec.prompt.size()) + spec.max_tokens; }
  };
  using SequencePtr = std::unique_ptr<Sequence>;

  void plan_decodes(proto::Plan& plan, std::vector<Sequence*>& rows);
  void plan_prefills(proto::Plan& plan, std::vector<Sequence*>& rows, int64_t budget);
  bool grow(Sequence& sequence, int64_t tokens, bool may_preempt);
  bool preempt_one_younger_than(const Sequence& sequence);
  Sequence* admit_next(CacheForecast& forecast);
  CacheForecast forecast() const;
  CacheGrowth growth_of(const Sequence& sequence) const;
  bool lengths_are_known_with(const Sequence& sequence) const;
  int64_t prefill_budget(int64_t decodes) const;
  void schedule_row(proto::Plan& plan, std::vector<Sequence*>& rows, Sequence& sequence, int64_t tokens);
  void ask_for_scores(proto::PlannedRow& row, const Sequence& sequence) const;
  void put_sampling(proto::PlannedRow& row, Sequence& sequence);
  void forget_rules(Sequence& sequence);
  static void take_scores(const std::vector<Sequence*>& rows, const proto::StepResult& result);
  int64_t blocks_for(int64_t tokens) const { return (tokens + limits_.block_size - 1) / limits_.block_size; }

  SchedulerLimits most_;
  SchedulerLimits limits_;
  BlockPool pool_;
  std::deque<SequencePtr> waiting_;                // preempted ones in front
  std::vector<SequencePtr> running_;               // in order of admission
  std::vector<std::vector<Sequence*>> in_flight_;  // by slot
  std::vector<uint64_t> forgotten_;                // whose rules the last stage may drop; for the next plan
  AnswerLengths answer_lengths_;
  bool input_ended_ = false;
  int64_t admissions_ = 0;
  int64_t preemptions_ = 0;
};

}  // namespace penstock
