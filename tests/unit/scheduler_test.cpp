#include "runtime/requests/scheduler.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <numeric>
#include <random>
#include <set>

#include "runtime/base/error.h"

namespace penstock {
namespace {

SequenceSpec sequence(uint64_t id, int64_t prompt, int64_t max_tokens) {
  SequenceSpec spec;
  spec.id = id;
  spec.prompt.resize(static_cast<size_t>(prompt));
  std::iota(spec.prompt.begin(), spec.prompt.end(), static_cast<int32_t>(1000 * id));
  spec.max_tokens = max_tokens;
  return spec;
}

/// A model without numbers: the token after a history is a hash of it, and it checks that every position of
/// every sequence was stored, in order, in blocks of its own, before it is attended to.
class FakeModel {
 public:
  explicit FakeModel(int64_t block_size) : block_size_(block_size) {}

  proto::StepResult run(const proto::Plan& plan) {
    proto::StepResult result;
    for (const auto& row : plan.rows()) {
      for (int i = 0; i < row.tokens_size(); ++i)
        store(row, static_cast<int64_t>(row.start()) + i, row.tokens(i));
      for (int i = 0; i < row.targets_size(); ++i) {
        auto* scored = result.add_scored();
        scored->set_sequence(row.sequence());
        scored->set_token(row.targets(i));
        // Its position, so that a score at the wrong place shows.
        scored->set_rank(row.start() + row.score_from() + static_cast<uint32_t>(i) + 1);
      }
      if (!row.has_sampling()) continue;
      uint64_t hash = 17;
      const int64_t length = static_cast<int64_t>(row.start()) + row.tokens_size();
      for (int64_t p = 0; p < length; ++p) {
        const auto& cell = cells_[place(row, p)];
        EXPECT_EQ(cell.sequence, row.sequence()) << "position " << p << " belongs to another sequence";
        EXPECT_EQ(cell.position, p);
        hash = hash * 31 + cell.token;
      }
      auto* token = result.add_tokens();
      token->set_sequence(row.sequence());
      token->set_token(static_cast<uint32_t>(hash % 997));
      for (const uint32_t id : row.sampling().banned())
        if (id == token->token()) token->set_token(id + 1);
    }
    return result;
  }

 private:
  struct Cell {
    uint64_t sequence = 0;
    int64_t position = -1;
    uint32_t token = 0;
  };
  std::pair<uint32_t, int64_t> place(const proto::PlannedRow& row, int64_t position) const {
    const auto block = static_cast<int>(position / block_size_);
    if (block >= row.blocks_size()) {
      ADD_FAILURE() << "no block for position " << position;
      return {};
    }
    return {row.blocks(block), position % block_size_};
  }
  void store(const proto::PlannedRow& row, int64_t position, uint32_t token) {
    cells_[place(row, position)] = {row.sequence(), position, token};
  }
  int64_t block_size_;
  std::map<std::pair<uint32_t, int64_t>, Cell> cells_;
};

struct Outcome {
  std::map<uint64_t, std::vector<int32_t>> tokens;
  std::map<uint64_t, std::vector<GeneratedToken>> prompts;
  int64_t preemptions = 0;
  int most_rows = 0;
  int64_t most_tokens = 0;
};

/// Runs all sequences to their end with every slot in flight as long as it can be.
/// `lower_after` micro-batches, when given, the limits are lowered to a quarter.
Outcome run(const SchedulerLimits& limits, const std::vector<SequenceSpec>& specs, int lower_after = -1) {
  Scheduler scheduler(limits);
  FakeModel model(limits.block_size);
  for (const SequenceSpec& s : specs) scheduler.add(s);
  scheduler.input_ended();
  Outcome outcome;
  std::vector<std::pair<bool, proto::StepResult>> slots(static_cast<size_t>(limits.micro_batches));
  for (int idle = 0; !scheduler.empty() && idle < limits.micro_batches + 1;) {
    for (int m = 0; m < limits.micro_batches; ++m) {
      auto& [busy, result] = slots[static_cast<size_t>(m)];
      if (busy)
        for (FinishedSequence& f : scheduler.complete(m, result)) {
          for (const GeneratedToken& t : f.tokens) outcome.tokens[f.id].push_back(t.id);
          outcome.prompts[f.id] = std::move(f.prompt);
        }
      if (lower_after-- == 0)
        scheduler.change_limits(limits.max_num_seqs / 4, limits.max_num_batched_tokens / 4,
                                limits.blocks / 4);
      const proto::Plan plan = scheduler.plan(m);
      busy = !plan.rows().empty();
      idle = busy ? 0 : idle + 1;
      if (!busy) continue;
      int64_t tokens = 0;
      for (const auto& row : plan.rows()) tokens += row.tokens_size();
      outcome.most_tokens = std::max(outcome.most_tokens, tokens);
      outcome.most_rows = std::max(outcome.most_rows, plan.rows_size());
      result = model.run(plan);
    }
  }
  EXPECT_TRUE(scheduler.empty()) << "the scheduler stands still with work left";
  EXPECT_EQ(scheduler.kv_used_share(), 0) << "blocks leaked";
  outcome.preemptions = scheduler.preemptions();
  return outcome;
}

std::vector<SequenceSpec> mixed(int count, unsigned seed) {
  std::mt19937 rng(seed);
  std::vector<SequenceSpec> specs;
  for (int i = 0; i < count; ++i)
    specs.push_back(sequence(static_cast<uint64_t>(i) + 1, 1 + static_cast<int64_t>(rng() % 50),
                             1 + static_cast<int64_t>(rng() % 30)));
  return specs;
}

/// The same sequences, but as far as the scheduler knows a token may end them early; none does.
std::vector<SequenceSpec> of_unknown_length(std::vector<SequenceSpec> specs) {
  for (SequenceSpec& spec : specs) spec.stop_tokens = {-1};
  return specs;
}

TEST(Scheduler, WhatWaitsGoesOnElsewhereWithItsTokens) {
  const auto specs = mixed(12, 8);
  const SchedulerLimits limits{64, 512, 16, 400, 1};
  const Outcome alone = run(limits, specs);
  Scheduler first({2, 512, 16, 400, 1});
  FakeModel model(16);
  std::map<uint64_t, std::vector<int32_t>> tokens;
  const auto keep = [&tokens](const std::vector<FinishedSequence>& finished) {
    for (const FinishedSequence& f : finished)
      for (const GeneratedToken& t : f.tokens) tokens[f.id].push_back(t.id);
  };
  for (const SequenceSpec& s : specs) first.add(s);
  for (int step = 0; step < 3; ++step) keep(first.complete(0, model.run(first.plan(0))));
  first.start_over(400);  // those that ran wait again, in front
  keep(first.complete(0, model.run(first.plan(0))));
  std::vector<SequenceSpec> moved;
  while (std::optional<SequenceSpec> spec = first.hand_on()) moved.push_back(std::move(*spec));
  EXPECT_EQ(first.waiting(), 0U);
  EXPECT_EQ(first.running() + moved.size() + tokens.size(), specs.size());
  EXPECT_EQ(moved.front().id, specs.back().id) << "the last to come first";
  for (const auto& [id, found] : run(limits, moved).tokens) tokens[id] = found;
  while (!first.empty()) keep(first.complete(0, model.run(first.plan(0))));
  EXPECT_EQ(tokens, alone.tokens);
}

TEST(Scheduler, TokensDependOnNoLimit) {
  const auto specs = mixed(40, 5);
  const Outcome roomy = run({64, 512, 16, 400, 1}, specs);
  EXPECT_EQ(roomy.tokens.size(), 40U);
  EXPECT_EQ(roomy.preemptions, 0);
  for (const SchedulerLimits limits :
       {SchedulerLimits{1, 512, 16, 400, 1}, SchedulerLimits{7, 32, 16, 400, 4},
        SchedulerLimits{64, 16, 1, 2000, 5}, SchedulerLimits{64, 512, 16, 400, 8}})
    EXPECT_EQ(run(limits, specs).tokens, roomy.tokens);
}

TEST(Scheduler, PreemptedSequencesAreFilledAgainAndEndWithTheSameTokens) {
  const auto specs = of_unknown_length(mixed(40, 6));
  const Outcome roomy = run({64, 512, 4, 4000, 1}, specs);
  for (int micro_batches : {1, 3, 8}) {
    const Outcome tight = run({64, 64, 4, 30, micro_batches}, specs);
    EXPECT_GT(tight.preemptions, 0);
    EXPECT_EQ(tight.tokens, roomy.tokens);
  }
}

TEST(Scheduler, SequencesOfKnownLengthAreHardlyEverPreempted) {
  int64_t known = 0, unknown = 0;
  for (unsigned seed = 1; seed <= 8; ++seed) {
    const auto specs = mixed(200, seed);
    const Outcome roomy = run({64, 512, 4, 4000, 1}, specs);
    for (int micro_batches : {1, 3, 8}) {
      const SchedulerLimits limits{64, 64, 4, 200, micro_batches};
      const Outcome tight = run(limits, specs);
      EXPECT_EQ(tight.tokens, roomy.tokens);
      EXPECT_LE(tight.preemptions, 3);
      known += tight.preemptions;
      unknown += run(limits, of_unknown_length(specs)).preemptions;
    }
  }
  EXPECT_GT(unknown, 100) << "so little cache is no test";
  EXPECT_LT(20 * known, unknown);
}

/// How many rounds of plans it takes until all have ended, where each answer ends early after `length`
/// tokens.
int rounds_until_done(Scheduler& scheduler, int length) {
  int rounds = 0;
  std::map<uint64_t, int> generated;
  while (!scheduler.empty()) {
    const proto::Plan plan = scheduler.plan(0);
    proto::StepResult result;
    for (const auto& row : plan.rows()) {
      if (!row.has_sampling()) continue;
      auto* token = result.add_tokens();
      token->set_sequence(row.sequence());
      token->set_token(++generated[row.sequence()] == length ? 3 : 7);
    }
    scheduler.complete(0, result);
    ++rounds;
  }
  return rounds;
}

TEST(Scheduler, ManyShortRowsDoNotKeepLongOnesOut) {
  const auto rounds = [](int short_rows) {
    Scheduler scheduler({256, 8192, 16, 6000, 1});
    for (int i = 0; i < short_rows + 500; ++i) {
      SequenceSpec spec = sequence(static_cast<uint64_t>(i) + 1, 100, i < short_rows ? 1 : 8000);
      spec.stop_tokens = {3};
      scheduler.add(spec);
    }
    return rounds_until_done(scheduler, 150);
  };
  const int alone = rounds(0);
  EXPECT_LT(rounds(2000), 2 * alone)
      << "after rows of max_tokens 1 every answer seemed to take all that it may";
}

TEST(Scheduler, ACacheMadeForAllSequencesAdmitsThemAll) {
  // Prompts that take all the blocks that each will ever have, so that in the end none is free.
  Scheduler scheduler({256, 8192, 16, 256 * 8, 2});
  FakeModel model(16);
  for (uint64_t id = 1; id <= 256; ++id) scheduler.add(sequence(id, 113, 16));
  scheduler.input_ended();
  for (int step = 0; step < 16 && scheduler.waiting() > 0; ++step)
    scheduler.complete(step % 2, model.run(scheduler.plan(step % 2)));
  EXPECT_EQ(scheduler.waiting(), 0U);
  EXPECT_EQ(scheduler.running(), 256U);
  EXPECT_EQ(scheduler.preemptions(), 0);
}

TEST(Scheduler, LimitsMayBeLoweredWhileSequencesRun) {
  const auto specs = mixed(40, 6);
  const Outcome roomy = run({64, 512, 4, 4000, 1}, specs);
  for (int micro_batches : {1, 3, 8}) {
    const Outcome lowered =
        run({32, 64, 4, 100, micro_batches}, specs, 20);  // 25 blocks: one sequence needs 20
    EXPECT_EQ(lowered.tokens, roomy.tokens);
    EXPECT_GT(lowered.preemptions, run({32, 64, 4, 100, micro_batches}, specs).preemptions);
  }
}

TEST(Scheduler, NoMicroBatchExceedsALoweredBudget) {
  Scheduler scheduler({64, 64, 16, 400, 1});
  FakeModel model(16);
  for (uint64_t id = 1; id <= 40; ++id) scheduler.add(sequence(id, 20, 10));
  scheduler.complete(0, model.run(scheduler.plan(0)));
  scheduler.change_limits(8, 16, 400);
  while (!scheduler.empty()) {
    const proto::Plan plan = scheduler.plan(0);
    int64_t tokens = 0;
    for (const auto& row : plan.rows()) tokens += row.tokens_size();
    EXPECT_LE(tokens, 16);
    scheduler.complete(0, model.run(plan));
  }
  scheduler.change_limits(64, 64, 400);
  EXPECT_THROW(scheduler.change_limits(65, 64, 400), Error);
}

TEST(Scheduler, OneSequenceMayTakeTheWholeCache) {
  const Outcome outcome =
      run({8, 16, 4, 10, 2}, {sequence(1, 20, 20), sequence(2, 39, 1), sequence(3, 1, 39)});
  EXPECT_EQ(outcome.tokens.size(), 3U);
  EXPECT_EQ(outcome.tokens.at(3).size(), 39U);
}

TEST(Scheduler, NoMicroBatchExceedsItsBudget) {
  EXPECT_LE(run({64, 32, 16, 400, 4}, mixed(40, 7)).most_tokens, 32);
  EXPECT_LE(run({5, 512, 16, 400, 1}, mixed(40, 7)).most_rows, 5);
}

TEST(Scheduler, DecodesAreSpreadEvenlyOverTheMicroBatches) {
  Scheduler scheduler({64, 512, 16, 400, 4});
  FakeModel model(16);
  for (uint64_t id = 1; id <= 32; ++id) scheduler.add(sequence(id, 4, 100));
  std::vector<proto::Plan> plans(4);
  for (int m = 0; m < 4; ++m) plans[static_cast<size_t>(m)] = scheduler.plan(m);
  for (int round = 0; round < 6; ++round)
    for (int m = 0; m < 4; ++m) {
      auto& plan = plans[static_cast<size_t>(m)];
      scheduler.complete(m, model.run(plan));
      plan = scheduler.plan(m);
      if (round >= 4) {
        EXPECT_EQ(plan.rows_size(), 8);
      }
    }
}

TEST(Scheduler, AStopTokenEndsASequenceAndIsPartOfIt) {
  SequenceSpec spec = sequence(1, 5, 50);
  const std::vector<int32_t> all = run({4, 64, 16, 40, 1}, {spec}).tokens.at(1);
  spec.stop_tokens = {all[10]};
  const auto first = std::find(all.begin(), all.end(), all[10]) - all.begin();
  const std::vector<int32_t> cut = run({4, 64, 16, 40, 1}, {spec}).tokens.at(1);
  EXPECT_EQ(cut, std::vector<int32_t>(all.begin(), all.begin() + first + 1));
}

TEST(Scheduler, ASequenceEndsWhereItsWatchSays) {
  SequenceSpec spec = sequence(1, 5, 50);
  const std::vector<int32_t> all = run({4, 64, 16, 40, 1}, {spec}).tokens.at(1);
  std::vector<int32_t> told;
  spec.make_ends = [&told] {
    return [&told](int32_t id) {
      told.push_back(id);
      return told.size() == 7;
    };
  };
  const std::vector<int32_t> cut = run({4, 64, 16, 40, 1}, {spec}).tokens.at(1);
  EXPECT_EQ(cut, std::vector<int32_t>(all.begin(), all.begin() + 7));
  EXPECT_EQ(told, cut) << "each token once, in order";
}

TEST(Scheduler, StartingOverEverySequenceBeginsWithNothingOnOtherBlocks) {
  const SchedulerLimits limits{8, 16, 4, 200, 1};
  std::vector<SequenceSpec> specs = mixed(20, 3);
  int watches = 0;
  for (SequenceSpec& s : specs) {
    s.prompt_logprobs = 0;
    s.make_ends = [&watches] {
      ++watches;
      return [seen = 0](int32_t) mutable { return ++seen == 9; };
    };
  }
  const Outcome undisturbed = run(limits, specs);
  Scheduler scheduler(limits);
  for (const SequenceSpec& s : specs) scheduler.add(s);
  scheduler.change_limits(2, 4, 100);
  FakeModel before(limits.block_size);
  std::set<uint64_t> gone;
  for (int step = 0; step < 25; ++step)
    for (const FinishedSequence& f : scheduler.complete(0, before.run(scheduler.plan(0)))) gone.insert(f.id);
  ASSERT_GT(gone.size(), 0u);
  ASSERT_GT(scheduler.running(), 0u);
  watches = 0;
  scheduler.start_over(60);
  EXPECT_EQ(scheduler.kv_used_share(), 0);
  EXPECT_EQ(watches, 20 - static_cast<int>(gone.size()));
  EXPECT_EQ(scheduler.waiting() + gone.size(), 20u);
  FakeModel after(limits.block_size);
  int most_rows = 0;
  while (!scheduler.empty()) {
    const proto::Plan plan = scheduler.plan(0);
    most_rows = std::max(most_rows, plan.rows_size());
    for (const auto& row : plan.rows())
      for (const uint32_t block : row.blocks()) EXPECT_LT(block, 60u);
    for (FinishedSequence& f : scheduler.complete(0, after.run(plan))) {
      std::vector<int32_t> ids;
      for (const GeneratedToken& t : f.tokens) ids.push_back(t.id);
      EXPECT_EQ(ids, undisturbed.tokens.at(f.id));
      EXPECT_EQ(f.prompt.size(), undisturbed.prompts.at(f.id).size());
    }
  }
  EXPECT_GT(most_rows, 2) << "the limits are those of the beginning again";
}

TEST(Scheduler, PromptTokensAreScoredOnceEachHoweverThePromptIsCut) {
  for (const SchedulerLimits limits :
       {SchedulerLimits{64, 512, 4, 4000, 1}, SchedulerLimits{64, 7, 4, 4000, 3},
        SchedulerLimits{64, 64, 4, 30, 3}}) {
    std::vector<SequenceSpec> specs = of_unknown_length(mixed(40, 6));
    for (SequenceSpec& s : specs) s.prompt_logprobs = 2;
    const Outcome outcome = run(limits, specs);
    EXPECT_EQ(outcome.preemptions > 0, limits.blocks == 30);
    for (const SequenceSpec& s : specs) {
      const std::vector<GeneratedToken>& scored = outcome.prompts.at(s.id);
      ASSERT_EQ(scored.size(), s.prompt.size() - 1);
      for (size_t i = 0; i < scored.size(); ++i) {
        EXPECT_EQ(scored[i].id, s.prompt[i + 1]);
        EXPECT_EQ(scored[i].rank, static_cast<int32_t>(i) + 1);
      }
    }
  }
}

TEST(Scheduler, EndTokensAreWithheldUntilMinTokens) {
  SequenceSpec spec = sequence(1, 5, 50);
  const std::vector<int32_t> all = run({4, 64, 16, 40, 1}, {spec}).tokens.at(1);
  SamplingFields fields;
  fields.min_tokens = 3;
  spec.stop_tokens = {all[1]};
  spec.rules = std::make_shared<LogitRules>(make_logit_rules(fields, {all[1]}, {}));
  const std::vector<int32_t> kept = run({4, 64, 16, 40, 1}, {spec}).tokens.at(1);
  EXPECT_EQ(kept[1], all[1] + 1) << "the model was told not to";
  EXPECT_GE(kept.size(), 3U);
}

TEST(Scheduler, ABadWordsLastTokenIsBannedAfterTheOthers) {
  SequenceSpec spec = sequence(1, 5, 6);
  const std::vector<int32_t> all = run({4, 64, 16, 40, 1}, {spec}).tokens.at(1);
  spec.rules = std::make_shared<LogitRules>(
      make_logit_rules({}, {}, {{all[2], all[3]}, {all[0], all[3]}, {all[5] + 1}}));
  const std::vector<int32_t> kept = run({4, 64, 16, 40, 1}, {spec}).tokens.at(1);
  EXPECT_EQ(std::vector<int32_t>(kept.begin(), kept.begin() + 3),
            std::vector<int32_t>(all.begin(), all.begin() + 3));
  EXPECT_EQ(kept[3], all[3] + 1);
}

/// Plays the last stage's part: counts tokens by what plans tell, and checks that it always knows all of
/// them.
TEST(Scheduler, TheLastStageAlwaysKnowsTheTokensOfASequenceWithRules) {
  SamplingFields fields;
  fields.repetition_penalty = 1.2F;
  const auto rules = std::make_shared<LogitRules>(make_logit_rules(fields, {}, {}));
  Scheduler scheduler({64, 64, 4, 30, 3});
  FakeModel model(4);
  std::vector<SequenceSpec> specs = of_unknown_length(mixed(40, 6));
  for (SequenceSpec& s : specs) {
    s.rules = rules;
    scheduler.add(s);
  }
  scheduler.input_ended();
  std::map<uint64_t, std::vector<uint32_t>> known, generated;
  std::vector<std::pair<bool, proto::StepResult>> slots(3);
  uint64_t forgotten = 0;
  while (!scheduler.empty())
    for (int m = 0; m < 3; ++m) {
      auto& [busy, result] = slots[static_cast<size_t>(m)];
      if (busy) scheduler.complete(m, result);
      const proto::Plan plan = scheduler.plan(m);
      busy = !plan.rows().empty();
      if (!busy) continue;
      for (const uint64_t id : plan.forgotten()) forgotten += known.erase(id);
      for (const auto& row : plan.rows()) {
        if (!row.has_sampling()) continue;
        ASSERT_TRUE(row.sampling().ruled());
        std::vector<uint32_t>& tokens = known[row.sequence()];
        if (row.sampling().has_rules())
          tokens.assign(row.sampling().rules().generated().begin(), row.sampling().rules().generated().end());
        else
          tokens.insert(tokens.end(), row.tokens().begin(), row.tokens().end());
        ASSERT_EQ(tokens, generated[row.sequence()]);
      }
      result = model.run(plan);
      for (const auto& token : result.tokens()) generated[token.sequence()].push_back(token.token());
    }
  EXPECT_GT(scheduler.preemptions(), 0);
  EXPECT_GT(forgotten, 30U);
}

TEST(Scheduler, NearTheEndLongRowsComeFirst) {
  Scheduler scheduler({1, 512, 16, 400, 1});
  scheduler.add(sequence(1, 4, 2));
  scheduler.add(sequence(2, 4, 90));
  scheduler.input_ended();
  EXPECT_EQ(scheduler.plan(0).rows(0).sequence(), 2U);
}

TEST(Scheduler, TokensThatNobodyAskedForAreAnError) {
  Scheduler scheduler({4, 64, 16, 40, 1});
  scheduler.add(sequence(1, 5, 5));
  const proto::Plan plan = scheduler.plan(0);
  EXPECT_THROW(scheduler.complete(0, proto::StepResult{}), Error);
}

}  // namespace
}  // namespace penstock
