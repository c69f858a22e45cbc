// What is measured and how it is told: meters, histograms, the job's figures and their Prometheus text. All
// of it takes the time from the caller, so nothing here waits.
#include <gtest/gtest.h>

#include <chrono>
#include <string>

#include "runtime/metrics/exposition.h"
#include "runtime/metrics/job_metrics.h"
#include "runtime/metrics/stage_meter.h"

namespace penstock {
namespace {

using Clock = std::chrono::steady_clock;

Clock::time_point at(double seconds) {
  return Clock::time_point(
      std::chrono::duration_cast<Clock::duration>(std::chrono::duration<double>(1000 + seconds)));
}

// ---- Histogram ----

TEST(Histogram, CountsWhatLiesAtABoundBelowIt) {
  Histogram h({1, 2, 5});
  h.observe(1);
  h.observe(1.5, 2);
  h.observe(100);
  EXPECT_EQ(h.counts(), (std::vector<uint64_t>{1, 2, 0, 1}));
  EXPECT_EQ(h.count(), 4u);
  EXPECT_DOUBLE_EQ(h.sum(), 104);
}

TEST(Histogram, TellsQuantilesAsPrometheusDoes) {
  Histogram h({0.1, 0.2, 0.4});
  EXPECT_EQ(h.quantile(0.5), 0);
  h.observe(0.05, 50);
  h.observe(0.3, 50);
  EXPECT_DOUBLE_EQ(h.quantile(0.25), 0.05);
  EXPECT_DOUBLE_EQ(h.quantile(0.75), 0.3);
  h.observe(9, 100);
  EXPECT_DOUBLE_EQ(h.quantile(0.99), 0.4);
}

TEST(Histogram, TellsWhatIsNewSinceACopy) {
  Histogram h({1, 2});
  h.observe(0.5, 3);
  const Histogram earlier = h;
  h.observe(1.5);
  EXPECT_EQ(h.since(earlier).counts(), (std::vector<uint64_t>{0, 1, 0}));
  EXPECT_DOUBLE_EQ(h.since(earlier).sum(), 1.5);
}

// ---- StageMeter ----

TEST(StageMeter, ForgetsWhatWasWaitedForBeforeTheFirstForward) {
  StageMeter meter(2);
  meter.begin(proto::ACTIVITY_WAIT_PLAN, 0, at(0));
  meter.end(at(5));
  meter.begin(proto::ACTIVITY_BUSY, 0, at(5));
  meter.end(at(7), 40);
  meter.begin(proto::ACTIVITY_SEND, 0, at(7));
  meter.end(at(7.5));
  meter.sent(1000);
  const proto::StageReport r = meter.report(at(8));
  EXPECT_EQ(r.rank(), 2u);
  EXPECT_DOUBLE_EQ(r.wait_plan_seconds(), 0);
  EXPECT_DOUBLE_EQ(r.busy_seconds(), 2);
  EXPECT_DOUBLE_EQ(r.send_seconds(), 0.5);
  EXPECT_DOUBLE_EQ(r.span_seconds(), 2);
  EXPECT_EQ(r.micro_batches(), 1u);
  EXPECT_EQ(r.tokens(), 40u);
  EXPECT_EQ(r.edge_bytes(), 1000u);
}

TEST(StageMeter, TellsOfAForwardThatDoesNotEnd) {
  StageMeter meter(0);
  meter.begin(proto::ACTIVITY_BUSY, 0, at(0));
  meter.end(at(1), 1);
  meter.begin(proto::ACTIVITY_BUSY, 1, at(1));
  const proto::StageReport r = meter.report(at(31));
  EXPECT_EQ(r.activity(), proto::ACTIVITY_BUSY);
  EXPECT_DOUBLE_EQ(r.activity_seconds(), 30);
  EXPECT_DOUBLE_EQ(r.busy_seconds(), 31);
  EXPECT_EQ(r.micro_batches(), 1u);
}

TEST(StageMeter, TellsTheCachesRoundingSinceTheLastReport) {
  StageMeter meter(0);
  EXPECT_FALSE(meter.report(at(0)).has_kv_error());
  meter.rounded(1, 60);
  meter.rounded(3, 40);
  meter.drew_from_no_numbers(2);
  EXPECT_DOUBLE_EQ(meter.report(at(1)).kv_error(), 0.2);
  EXPECT_FALSE(meter.report(at(2)).has_kv_error());
  EXPECT_EQ(meter.report(at(2)).nonfinite_tokens(), 2u);
}

TEST(StageMeter, HandsEveryStretchOutOnceWhenTracing) {
  StageMeter meter(0, true);
  meter.begin(proto::ACTIVITY_BUSY, 7, at(0));
  meter.end(at(1), 12);
  const proto::StageReport first = meter.report(at(2));
  ASSERT_EQ(first.events_size(), 1);
  EXPECT_EQ(first.events(0).step(), 7u);
  EXPECT_EQ(first.events(0).tokens(), 12u);
  EXPECT_EQ(first.events(0).duration_ns(), 1000000000u);
  EXPECT_EQ(meter.report(at(3)).events_size(), 0);
  EXPECT_EQ(StageMeter(0).report(at(3)).events_size(), 0);
}

TEST(StageMeter, CountsTheStretchesThatNoReportHasRoomFor) {
  StageMeter meter(0, true);
  for (int i = 0; i < 70000; ++i) {
    meter.begin(proto::ACTIVITY_BUSY, 0, at(i));
    meter.end(at(i + 0.5), 1);
  }
  const proto::StageReport r = meter.report(at(70000));
  EXPECT_EQ(static_cast<uint64_t>(r.events_size()) + r.lost_events(), 70000u);
  EXPECT_GT(r.lost_events(), 0u);
}

// ---- RequestMetrics ----

proto::Plan plan_of(uint64_t sequence, int tokens, uint32_t position) {
  proto::Plan plan;
  auto* row = plan.add_rows();
  row->set_sequence(sequence);
  for (int i = 0; i < tokens; ++i) row->add_tokens(1);
  row->mutable_sampling()->set_position(position);
  return plan;
}

proto::StepResult token_of(uint64_t sequence) {
  proto::StepResult result;
  result.add_tokens()->set_sequence(sequence);
  return result;
}

TEST(RequestMetrics, TimesARequestFromArrivalToItsLastToken) {
  RequestMetrics requests(1024);
  requests.arrived(5, {30, 16, 2, 0}, at(0));
  requests.planned(plan_of(5, 30, 0), at(2));
  requests.sampled(token_of(5), at(3));
  requests.planned(plan_of(5, 1, 1), at(3));
  requests.sampled(token_of(5), at(4));
  requests.sampled(token_of(5), at(7));
  requests.finished(5, "length", at(7));
  const RequestFigures f = requests.figures();
  const auto sum = [&](RequestHistogram h) { return f.of(h).sum(); };
  EXPECT_DOUBLE_EQ(sum(RequestHistogram::queue_time), 2);
  EXPECT_DOUBLE_EQ(sum(RequestHistogram::time_to_first_token), 3);
  EXPECT_DOUBLE_EQ(sum(RequestHistogram::prefill_time), 1);
  EXPECT_DOUBLE_EQ(sum(RequestHistogram::decode_time), 4);
  EXPECT_DOUBLE_EQ(sum(RequestHistogram::inference_time), 5);
  EXPECT_DOUBLE_EQ(sum(RequestHistogram::e2e_latency), 7);
  EXPECT_DOUBLE_EQ(sum(RequestHistogram::inter_token_latency), 4);
  EXPECT_EQ(f.of(RequestHistogram::inter_token_latency).count(), 2u);
  EXPECT_DOUBLE_EQ(sum(RequestHistogram::time_per_output_token), 2);
  EXPECT_DOUBLE_EQ(sum(RequestHistogram::iteration_tokens), 31);
  EXPECT_DOUBLE_EQ(sum(RequestHistogram::prompt_tokens), 30);
  EXPECT_DOUBLE_EQ(sum(RequestHistogram::generation_tokens), 3);
  EXPECT_DOUBLE_EQ(sum(RequestHistogram::params_n), 2);
  EXPECT_DOUBLE_EQ(sum(RequestHistogram::params_max_tokens), 16);
  EXPECT_EQ(f.finished.at("length"), 1u);
}

TEST(RequestMetrics, TimesEveryRequestOfAMicroBatchByItsOwnLastToken) {
  RequestMetrics requests(1024);
  proto::StepResult all;
  for (uint64_t id = 1; id <= 5; ++id) {
    requests.arrived(id, {3, 16, 1, 0}, at(0));
    requests.sampled(token_of(id), at(id <= 2 ? 1 : 2));  // two at once, then three
    all.add_tokens()->set_sequence(id);
  }
  requests.sampled(all, at(4));
  const Histogram itl = requests.figures().of(RequestHistogram::inter_token_latency);
  EXPECT_EQ(itl.count(), 5u);
  EXPECT_DOUBLE_EQ(itl.sum(), 2 * 3 + 3 * 2);
  EXPECT_EQ(requests.prompt_tokens(), 15);
}

TEST(RequestMetrics, CountsTheQueueOnlyUntilTheFirstPlanning) {
  RequestMetrics requests(1024);
  requests.arrived(5, {30, 16, 1, 0}, at(0));
  requests.planned(plan_of(5, 30, 0), at(1));
  requests.planned(plan_of(5, 30, 0), at(9));  // preempted, and filled again
  requests.sampled(token_of(5), at(10));
  requests.finished(5, "stop", at(10));
  EXPECT_DOUBLE_EQ(requests.figures().of(RequestHistogram::queue_time).sum(), 1);
}

TEST(RequestMetrics, KeepsFewReasonsHoweverManyFieldsAreAtFault) {
  RequestMetrics requests(1024);
  for (int i = 0; i < 1000; ++i) requests.row_failed({"id", "what", "field" + std::to_string(i)});
  const RequestFigures f = requests.figures();
  EXPECT_LE(f.failed.size(), 33u);
  uint64_t all = 0;
  for (const auto& [reason, count] : f.failed) all += count;
  EXPECT_EQ(all, 1000u);
  EXPECT_EQ(f.errors.size(), 8u);
  EXPECT_EQ(f.errors.front().reason, "field999");
}

TEST(RequestMetrics, CutsLongTextsBetweenCharacters) {
  RequestMetrics requests(1024);
  std::string text(599, 'x');
  text += "é and more";
  requests.row_finished({"id", text, "stop"}, at(0));
  EXPECT_EQ(requests.figures().samples.front().text, std::string(599, 'x') + "…");
  EXPECT_FALSE(requests.wants_sample(at(0.5)));
  EXPECT_TRUE(requests.wants_sample(at(1)));
}

// ---- JobMetrics ----

JobDescription two_stages() {
  JobDescription job;
  job.model_name = "a \"model\"\\\n";
  job.max_model_len = 100;
  job.stages = {{0, "here", "CPU", "embedding"}, {1, "there", "CPU", "layers 0-5 + head"}};
  return job;
}

proto::StageReport report_of(uint32_t stage, double busy, double input, uint64_t micro_batches, double made) {
  proto::StageReport r;
  r.set_rank(stage);
  r.set_busy_seconds(busy);
  r.set_wait_input_seconds(input);
  r.set_micro_batches(micro_batches);
  r.set_edge_bytes(1000 * micro_batches);
  r.set_made_ns(static_cast<uint64_t>(1e9 * made));
  return r;
}

TEST(JobMetrics, TellsRecentSharesAndRates) {
  JobMetrics metrics(two_stages());
  for (int i = 0; i <= 20; ++i) {
    // Idle for ten seconds, then busy for three quarters of the time.
    const double busy = i <= 10 ? 0 : 0.75 * (i - 10);
    metrics.stage_reported(report_of(1, busy, i - busy, static_cast<uint64_t>(i), i), at(i));
    JobFigures f;
    f.seconds = i;
    f.rows_done = i <= 10 ? 0 : 2 * (i - 10);
    metrics.progressed(f);
  }
  const JobSnapshot s = metrics.snapshot(at(21));
  EXPECT_NEAR(s.stages[1].recent.busy, 0.75, 1e-9);
  EXPECT_NEAR(s.stages[1].sent_bytes_per_second, 1000, 1e-6);
  EXPECT_NEAR(*s.stages[1].age_seconds, 1, 1e-9);
  EXPECT_FALSE(s.stages[0].age_seconds);
  EXPECT_DOUBLE_EQ(s.recent.rows_per_second, 2);
}

TEST(JobMetrics, PassesOverAStageThatTheJobDoesNotHave) {
  JobMetrics metrics(two_stages());
  metrics.stage_reported(report_of(7, 1, 1, 1, 1), at(0));
  for (const StageSnapshot& stage : metrics.snapshot(at(0)).stages) EXPECT_FALSE(stage.age_seconds);
}

TEST(JobMetrics, CountsRowsOfEarlierJobsForNoSpeed) {
  JobMetrics metrics(two_stages());
  for (int i = 0; i <= 3; ++i) {
    JobFigures f;
    f.seconds = i + 0.25;
    f.rows_resumed = 500;
    f.rows_done = 500 + i;
    metrics.progressed(f);
    const JobSnapshot s = metrics.snapshot(at(0));
    EXPECT_LE(s.recent.rows_per_second, 1) << "after " << i << " s";
    for (const HistoryPoint& p : s.history) EXPECT_LE(p.rows_per_second, 1);
  }
  const JobSnapshot s = metrics.snapshot(at(0));
  EXPECT_DOUBLE_EQ(s.recent.rows_per_second, 1);
  const std::string text = prometheus_text(s, {});
  EXPECT_NE(text.find("\npenstock:rows_done_total 3\n"), std::string::npos) << text;
  EXPECT_NE(text.find("\npenstock:rows_resumed 500\n"), std::string::npos) << text;
}

TEST(JobMetrics, TellsTheCacheThatThereIsNow) {
  JobMetrics metrics(two_stages());
  metrics.cache_renewed("float32 cpu-1", "float32", 77);
  const std::string text = prometheus_text(metrics.snapshot(at(0)), {});
  EXPECT_NE(text.find(R"(num_gpu_blocks="77",cache_dtype="float32"} 1)"), std::string::npos) << text;
  EXPECT_EQ(metrics.snapshot(at(0)).job.numerics, "float32 cpu-1");
}

TEST(JobMetrics, CountsCommitsOfTheJournal) {
  JobMetrics metrics(two_stages());
  metrics.journal_committed(0.004);
  metrics.journal_committed(0.3);
  const std::string text = prometheus_text(metrics.snapshot(at(0)), {});
  for (const char* line :
       {R"(penstock:journal_commit_seconds_bucket{le="0.0025"} 0)",
        R"(penstock:journal_commit_seconds_bucket{le="0.005"} 1)",
        R"(penstock:journal_commit_seconds_bucket{le="0.5"} 2)",
        R"(penstock:journal_commit_seconds_sum 0.304)", R"(penstock:journal_commit_seconds_count 2)"})
    EXPECT_NE(text.find(std::string(line) + "\n"), std::string::npos) << line;
}

TEST(JobMetrics, KeepsTheWholeJobInABoundedHistory) {
  JobMetrics metrics(two_stages());
  for (int i = 1; i <= 10000; ++i) {
    JobFigures f;
    f.seconds = i;
    f.generated_tokens = 5 * i;
    metrics.progressed(f);
  }
  const JobSnapshot s = metrics.snapshot(at(0));
  EXPECT_LE(s.history.size(), 600u);
  EXPECT_LT(s.history.front().seconds, 40);
  EXPECT_GT(s.history.back().seconds, 9900);
  for (const HistoryPoint& p : s.history) EXPECT_DOUBLE_EQ(p.generated_per_second, 5);
}

// ---- exposition ----

TEST(Exposition, TellsReplicasApartWhereThereAreSeveral) {
  JobDescription job = two_stages();
  job.stages.push_back({2, "here", "CPU", "embedding"});
  job.stages.push_back({3, "there", "CPU", "layers 0-5 + head"});
  job.replicas = 2;
  JobMetrics metrics(job);
  for (uint32_t rank = 0; rank < 4; ++rank)
    metrics.stage_reported(report_of(rank, 1.5, 0.5, 10 + rank, 2), at(2));
  const std::string text = prometheus_text(metrics.snapshot(at(2)), {});
  const auto has = [&](const std::string& line) { return text.find(line + "\n") != std::string::npos; };
  EXPECT_TRUE(has(
      R"(penstock:stage_microbatches_total{stage="0",rank="2",host="here",device="CPU",replica="1"} 12)"));
  EXPECT_TRUE(has(
      R"(penstock:stage_microbatches_total{stage="1",rank="1",host="there",device="CPU",replica="0"} 11)"));
  EXPECT_TRUE(
      has(R"(penstock:edge_bytes_total{stage="0",rank="2",host="here",device="CPU",replica="1"} 12000)"));
  EXPECT_EQ(text.find(R"(edge_bytes_total{stage="1")"), std::string::npos)
      << "nothing flows between replicas";
}

TEST(Exposition, EscapesLabelsAndSumsBucketsUp) {
  JobMetrics metrics(two_stages());
  RequestMetrics& requests = metrics.requests();
  requests.arrived(1, {3, 16, 1, 0}, at(0));
  requests.planned(plan_of(1, 3, 0), at(0));
  requests.sampled(token_of(1), at(0.07));
  requests.row_failed({"id", "what", "max_tokens"});
  metrics.stage_reported(report_of(1, 1.5, 0.5, 10, 2), at(2));
  const std::string text = prometheus_text(metrics.snapshot(at(2)), {"vllm:"});
  const auto has = [&](const std::string& line) {
    EXPECT_NE(text.find(line + "\n"), std::string::npos) << line;
  };
  has(R"(penstock:num_requests_running{model_name="a \"model\"\\\n",engine="0"} 0)");
  has(R"(vllm:time_to_first_token_seconds_bucket{model_name="a \"model\"\\\n",engine="0",le="0.06"} 0)");
  has(R"(vllm:time_to_first_token_seconds_bucket{model_name="a \"model\"\\\n",engine="0",le="0.08"} 1)");
  has(R"(vllm:time_to_first_token_seconds_bucket{model_name="a \"model\"\\\n",engine="0",le="1.0"} 1)");
  has(R"(vllm:time_to_first_token_seconds_bucket{model_name="a \"model\"\\\n",engine="0",le="+Inf"} 1)");
  has(R"(penstock:stage_busy_seconds_total{stage="1",rank="1",host="there",device="CPU"} 1.5)");
  has(R"(penstock:stage_wait_seconds_total{stage="1",rank="1",host="there",device="CPU",for="input"} 0.5)");
  has(R"(penstock:rows_failed_total{reason="max_tokens"} 1)");
  EXPECT_EQ(text.find("penstock:stage_busy_seconds_total{stage=\"0\""), std::string::npos);
  EXPECT_EQ(text.find("vllm:stage"), std::string::npos);
  EXPECT_EQ(prometheus_text(metrics.snapshot(at(2)), {}).find("vllm:"), std::string::npos);
}

}  // namespace
}  // namespace penstock
