// The guard's judgement, each goal forced: what breaks it, what is stepped back, and what is said.
#include "runtime/metrics/guard.h"

#include <gtest/gtest.h>

#include "runtime/base/error.h"
#include "runtime/metrics/job_metrics.h"

namespace penstock {
namespace {

const GuardSettings kStart{256, 512, 1000, "e4m3"};
const GuardSettings kLeast{8, 16, 100, "float32"};
const FullPrecision kFull{"float32", 260};

/// A job whose figures a test sets, second by second.
class Job {
 public:
  Job() {
    snapshot_.requests = RequestMetrics(1024).figures();
    snapshot_.stages.resize(2);
    for (StageSnapshot& stage : snapshot_.stages) {
      stage.age_seconds = 0.5;
      stage.recent = {0.9, 0.05, 0.03, 0.02};
      stage.report.set_memory_total_bytes(1000);
      stage.report.set_memory_free_bytes(500);
    }
    snapshot_.figures.running = 10;
  }
  JobSnapshot& at(double seconds) {
    snapshot_.figures.seconds = seconds;
    return snapshot_;
  }
  void observe(RequestHistogram h, double seconds, uint64_t times = 100) {
    snapshot_.requests.histograms[static_cast<size_t>(h)].observe(seconds, times);
  }
  JobSnapshot& now() { return snapshot_; }

 private:
  JobSnapshot snapshot_;
};

Guard guard_of(const char* text) {
  return {parse_guard(text), kStart, kLeast};
}

/// A second of tokens that are slow when more than `most` sequences run.
std::vector<GuardEvent> second(Guard& guard, Job& job, int& s, int64_t most) {
  job.observe(RequestHistogram::inter_token_latency, guard.settings().max_num_seqs > most ? 0.9 : 0.05);
  return guard.look(job.at(s++));
}

TEST(Guard, StepsBackWhenTokensAreSlowForLongAndNotBefore) {
  Guard guard = guard_of("p99_tpot_ms=500,for=10");
  Job job;
  for (int s = 0; s <= 10; ++s) {
    job.observe(RequestHistogram::time_per_output_token, 0.9);
    job.now().figures.generated_tokens += 10;
    EXPECT_TRUE(guard.look(job.at(s)).empty()) << s;
  }
  EXPECT_EQ(guard.settings(), kStart);
  job.observe(RequestHistogram::time_per_output_token, 0.9);
  const std::vector<GuardEvent> events = guard.look(job.at(11));
  ASSERT_EQ(events.size(), 1u);
  EXPECT_EQ(events[0].goal, "p99_tpot_ms");
  EXPECT_EQ(events[0].kind, GuardEvent::Kind::broken);
  EXPECT_NE(events[0].text.find("stepping back from max_num_seqs 256"), std::string::npos) << events[0].text;
  EXPECT_EQ(guard.settings(), (GuardSettings{128, 256, 1000, "e4m3"}));
  EXPECT_TRUE(guard.figures().goals[0].broken);
  EXPECT_EQ(guard.figures().goals[0].steps, 1);
}

TEST(Guard, JudgesTheNewSettingsByWhatHappenedUnderThem) {
  Guard guard = guard_of("p99_itl_ms=500,for=5");
  Job job;
  for (int s = 0; s <= 6; ++s) {
    job.observe(RequestHistogram::inter_token_latency, 0.9);
    guard.look(job.at(s));
  }
  EXPECT_EQ(guard.settings().max_num_seqs, 128);
  // Fast from here on: the slow tokens before the step no longer count.
  for (int s = 7; s <= 30; ++s) {
    job.observe(RequestHistogram::inter_token_latency, 0.05);
    for (const GuardEvent& event : guard.look(job.at(s))) {
      EXPECT_EQ(event.kind, GuardEvent::Kind::holds) << event.text;
      EXPECT_EQ(s, 7);
    }
  }
  EXPECT_EQ(guard.settings().max_num_seqs, 128);
  EXPECT_FALSE(guard.figures().goals[0].broken);
}

TEST(Guard, StepsFurtherUntilNothingIsLeftAndThenSaysSoOnce) {
  Guard guard = guard_of("p99_itl_ms=500,for=1");
  Job job;
  int steps = 0;
  int others = 0;
  for (int s = 0; s <= 100; ++s) {
    job.observe(RequestHistogram::inter_token_latency, 0.9);
    for (const GuardEvent& event : guard.look(job.at(s)))
      ++(event.text.find("stepping back") != std::string::npos ? steps : others);
  }
  EXPECT_EQ(steps, 5);  // 256 -> 8 sequences, 512 -> 16 tokens
  EXPECT_EQ(others, 0) << "the steps have told of it already";
  EXPECT_EQ(guard.settings(), (GuardSettings{8, 16, 1000, "e4m3"}));
}

TEST(Guard, SaysWhenThereIsNothingToStepBackTo) {
  Guard guard(parse_guard("oom=1"), kLeast, kLeast);
  Job job;
  job.now().stages[1].report.set_out_of_memory(1);
  const auto events = guard.look(job.at(0));
  ASSERT_EQ(events.size(), 1u);
  EXPECT_NE(events[0].text.find("nothing is left"), std::string::npos);
  EXPECT_TRUE(guard.look(job.at(1)).empty());
}

TEST(Guard, CountsFailuresOfMemoryFromStepToStepAndDoesNotWait) {
  Guard guard = guard_of("oom=3,for=1000");
  Job job;
  job.now().stages[0].report.set_out_of_memory(1);
  job.now().stages[1].report.set_out_of_memory(1);
  EXPECT_TRUE(guard.look(job.at(0)).empty());
  job.now().stages[1].report.set_out_of_memory(2);
  EXPECT_EQ(guard.look(job.at(1)).size(), 1u);
  EXPECT_EQ(guard.settings().max_num_batched_tokens, 256);
  job.now().stages[1].report.set_out_of_memory(4);
  for (const GuardEvent& event : guard.look(job.at(2))) EXPECT_EQ(event.kind, GuardEvent::Kind::holds);
  EXPECT_EQ(guard.settings().max_num_batched_tokens, 256) << "two more are not three";
  job.now().stages[0].report.set_out_of_memory(2);
  guard.look(job.at(3));
  EXPECT_EQ(guard.settings().max_num_batched_tokens, 128);
}

TEST(Guard, LowersTheKvCacheWhenMemoryIsShort) {
  Guard guard = guard_of("memory=0.85,for=2");
  Job job;
  job.now().stages[1].report.set_memory_free_bytes(100);
  for (int s = 0; s <= 2; ++s) guard.look(job.at(s));
  EXPECT_EQ(guard.settings(), (GuardSettings{256, 512, 750, "e4m3"}));
  for (int s = 3; s <= 100; ++s) guard.look(job.at(s));
  EXPECT_EQ(guard.settings(), (GuardSettings{256, 512, 100, "e4m3"}));
}

TEST(Guard, RunsFewerSequencesWhenManyArePreempted) {
  Guard guard = guard_of("preemptions=30,for=10");
  Job job;
  for (int s = 0; s <= 30; ++s) {
    job.now().figures.preemptions += 1;
    guard.look(job.at(s));
  }
  EXPECT_LT(guard.settings().max_num_seqs, 256);
}

TEST(Guard, GoesBackToTheLastSettingThatHeldWhenALargerOneFailsAgain) {
  Guard guard = guard_of("p99_itl_ms=500,for=5");
  Job job;
  std::vector<std::string> told;
  std::vector<int64_t> settings;
  for (int s = 0; s < 400;) {
    for (const GuardEvent& event : second(guard, job, s, 100))
      if (event.kind != GuardEvent::Kind::holds) told.push_back(event.text);
    if (settings.empty() || settings.back() != guard.settings().max_num_seqs)
      settings.push_back(guard.settings().max_num_seqs);
  }
  EXPECT_EQ(settings, (std::vector<int64_t>{256, 128, 64, 128, 64}));
  ASSERT_EQ(told.size(), 4u);
  EXPECT_NE(told[2].find("every goal has held for"), std::string::npos) << told[2];
  EXPECT_NE(told[3].find("to the last setting that held, max_num_seqs 64"), std::string::npos) << told[3];
}

TEST(Guard, ReturnsToFullSizeWhenTheTroubleHasPassed) {
  Guard guard = guard_of("p99_itl_ms=500,for=5");
  Job job;
  int s = 0;
  while (guard.settings().max_num_seqs > 64) second(guard, job, s, 0);
  for (int i = 0; i < 49; ++i) second(guard, job, s, 256);
  EXPECT_EQ(guard.settings().max_num_seqs, 64) << "not before ten times the time";
  for (int i = 0; i < 100; ++i) second(guard, job, s, 256);
  EXPECT_EQ(guard.settings(), kStart);
}

TEST(Guard, DoesNotTryMemoryThatRanOutOnce) {
  Guard guard = guard_of("oom=1,for=1");
  Job job;
  job.now().stages[0].report.set_out_of_memory(1);
  for (int s = 0; s <= 100; ++s) guard.look(job.at(s));
  EXPECT_EQ(guard.settings(), (GuardSettings{128, 256, 1000, "e4m3"}));
}

TEST(Guard, OnlyTellsOfWhatNoStepWouldMend) {
  struct Case {
    const char* goal;
    void (*breaks)(JobSnapshot&);
  };
  const Case cases[] = {
      {"busy=0.8,for=5",
       [](JobSnapshot& s) {
         for (auto& g : s.stages) g.recent.busy = 0.4;
       }},
      {"comm=0.2,for=5", [](JobSnapshot& s) { s.stages[0].recent.send = 0.5; }},
      {"errors=0.05,for=5",
       [](JobSnapshot& s) {
         s.figures.rows_done = 10;
         s.figures.rows_failed = 1;
       }},
      {"stall_s=60,for=5", [](JobSnapshot&) {}},
  };
  for (const Case& c : cases) {
    Guard guard = guard_of(c.goal);
    Job job;
    c.breaks(job.now());
    size_t told = 0;
    for (int s = 0; s <= 120; ++s) told += guard.look(job.at(s)).size();
    EXPECT_EQ(told, 1u) << c.goal;
    EXPECT_EQ(guard.settings(), kStart) << c.goal;
    EXPECT_TRUE(guard.figures().goals[0].broken) << c.goal;
  }
}

TEST(Guard, GoesToFullPrecisionAtOnceWhenLogitsAreNoNumbers) {
  Guard guard(parse_guard("nonfinite=3,for=1000"), kStart, kLeast, kFull);
  Job job;
  job.now().stages[1].report.set_nonfinite_tokens(2);
  EXPECT_TRUE(guard.look(job.at(0)).empty());
  job.now().stages[1].report.set_nonfinite_tokens(3);
  const auto events = guard.look(job.at(1));
  ASSERT_EQ(events.size(), 1u);
  EXPECT_NE(events[0].text.find("from a KV cache of e4m3 to one of float32"), std::string::npos)
      << events[0].text;
  EXPECT_EQ(guard.settings(), (GuardSettings{256, 512, 260, "float32"}));
  job.now().stages[1].report.set_nonfinite_tokens(9);
  const auto further = guard.look(job.at(2));
  ASSERT_EQ(further.size(), 0u) << "it was told, and there is nothing further to step to";
  EXPECT_TRUE(guard.figures().goals[0].broken);
}

TEST(Guard, GoesToFullPrecisionWhenTheCacheRoundsTooMuchForLong) {
  Guard guard(parse_guard("kv_error=0.02,for=5"), kStart, kLeast, kFull);
  Job job;
  for (int s = 0; s < 3; ++s) EXPECT_TRUE(guard.look(job.at(s)).empty()) << "nothing is kept yet";
  job.now().stages[0].report.set_kv_error(0.01);
  job.now().stages[1].report.set_kv_error(0.03);
  for (int s = 3; s < 8; ++s) EXPECT_TRUE(guard.look(job.at(s)).empty());
  EXPECT_EQ(guard.look(job.at(8)).size(), 1u);
  EXPECT_EQ(guard.settings().kv_dtype, "float32");
  for (StageSnapshot& stage : job.now().stages) stage.report.clear_kv_error();
  const auto events = guard.look(job.at(9));
  ASSERT_EQ(events.size(), 1u);
  EXPECT_EQ(events[0].kind, GuardEvent::Kind::holds);
}

TEST(Guard, SaysWhenThePrecisionIsFullAlready) {
  Guard guard(parse_guard("nonfinite=1"), {256, 512, 1000, "float32"}, kLeast);
  Job job;
  job.now().stages[0].report.set_nonfinite_tokens(1);
  const auto events = guard.look(job.at(0));
  ASSERT_EQ(events.size(), 1u);
  EXPECT_NE(events[0].text.find("nothing is left to step back to"), std::string::npos) << events[0].text;
}

TEST(Guard, NeverLeavesFullPrecisionAgainAndKeepsTheShareOfBlocks) {
  Guard guard(parse_guard("p99_itl_ms=500,memory=0.85,nonfinite=1,for=5"), kStart, kLeast, kFull);
  Job job;
  int s = 0;
  while (guard.settings().max_num_seqs > 64) second(guard, job, s, 0);
  job.now().stages[0].report.set_memory_free_bytes(100);
  while (guard.settings().kv_blocks > 750) second(guard, job, s, 256);
  job.now().stages[0].report.set_memory_free_bytes(500);
  job.now().stages[0].report.set_nonfinite_tokens(1);
  second(guard, job, s, 256);
  EXPECT_EQ(guard.settings(), (GuardSettings{64, 128, 195, "float32"}));
  for (int i = 0; i < 200; ++i) {
    second(guard, job, s, 256);
    EXPECT_EQ(guard.settings().kv_dtype, "float32");
    EXPECT_LE(guard.settings().kv_blocks, 260);
  }
}

TEST(Guard, JudgesTheErrorsOfThisJobAndNotThoseOfEarlierOnes) {
  Guard guard = guard_of("errors=0.05,for=5");
  Job job;
  job.now().figures.rows_done = job.now().figures.rows_resumed = 100;
  job.now().figures.rows_failed = job.now().figures.failed_resumed = 50;
  for (int s = 0; s <= 20; ++s) {
    EXPECT_TRUE(guard.look(job.at(s)).empty());
    ++job.now().figures.rows_done;
  }
  job.now().figures.rows_failed += 10;
  size_t told = 0;
  for (int s = 21; s <= 40; ++s) told += guard.look(job.at(s)).size();
  EXPECT_EQ(told, 1u);
}

TEST(Guard, KeepsQuietWhileEverythingHolds) {
  Guard guard = guard_of(
      "p99_tpot_ms=500,p99_itl_ms=500,oom=1,preemptions=1,memory=0.85,busy=0.8,comm=0.2,stall_s=60,errors=0."
      "05,for=5");
  Job job;
  for (int s = 0; s <= 300; ++s) {
    job.observe(RequestHistogram::inter_token_latency, 0.05);
    job.now().figures.generated_tokens += 10;
    EXPECT_TRUE(guard.look(job.at(s)).empty());
  }
  EXPECT_EQ(guard.settings(), kStart);
}

TEST(Guard, RefusesGoalsThatItDoesNotKnow) {
  EXPECT_THROW(parse_guard(""), UsageError);
  EXPECT_THROW(parse_guard("p99=3"), UsageError);
  EXPECT_THROW(parse_guard("oom"), UsageError);
  EXPECT_THROW(parse_guard("oom=many"), UsageError);
  EXPECT_THROW(parse_guard("oom=0"), UsageError);
  EXPECT_THROW(parse_guard("oom=3,"), UsageError);
  EXPECT_THROW(parse_guard("oom=3,oom=4"), UsageError);
  EXPECT_THROW(parse_guard("for=30"), UsageError);
  const GuardOptions options = parse_guard("oom=3,p99_tpot_ms=12.5,for=60");
  EXPECT_EQ(options.goals.size(), 2u);
  EXPECT_EQ(options.goals[1].limit, 12.5);
  EXPECT_EQ(options.hold_seconds, 60);
}

}  // namespace
}  // namespace penstock
