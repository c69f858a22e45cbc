// How much KV cache the running sequences are going to hold, so that one more is admitted only where, as far
// as can be told, none has to be preempted for it later: a preempted sequence is filled in again, which in a
// long job of long answers took a sixth of all prefill. Plain judgement.
#pragma once

#include <cstdint>
#include <vector>

namespace penstock {

/// How long answers become that may end before max_tokens, learned from those that have ended. An answer that
/// cannot end early needs no guess.
class AnswerLengths {
 public:
  void ended(int64_t generated, int64_t max_tokens);
  /// Of an answer that has `generated` of its `max_tokens`: at least 1, at most what is left.
  int64_t expected_to_come(int64_t generated, int64_t max_tokens) const;

 private:
  // Tokens of answers, and of what they might have been, newer answers counting more. They begin as if some
  // answers had taken a quarter: low, as max_tokens is often the model's length, and a preemption costs less
  // than an empty cache. Counted in tokens, many rows of max_tokens 1 say nothing of long ones.
  double taken_ = 2048;
  double allowed_ = 8192;
};

/// A running sequence, in tokens.
struct CacheGrowth {
  int64_t held = 0;     ///< in the cache
  int64_t to_come = 0;  ///< one a step, then it ends and holds nothing
};

class CacheForecast {
 public:
  /// Of a cache of so many blocks of `block_size` tokens.
  CacheForecast(int64_t blocks, int64_t block_size, std::vector<CacheGrowth> running);
  /// Takes one more sequence in, unless all of them might then hold more than the cache has at some step.
  /// Surely taken: what fits even if none ended before another, and what fits with every sequence's last
  /// block new.
  bool add(const CacheGrowth& sequence);

 private:
  int64_t at_end(const CacheGrowth& sequence) const;
  int64_t most_held() const;

  int64_t capacity_;
  int64_t block_size_;
  std::vector<CacheGrowth> running_;
  bool in_order_ = false;     // those that end first in front
  int64_t held_at_ends_ = 0;  // in whole blocks
};

}  // namespace penstock
