// A trace: written from reports, read back, and where the time went by it.
#include "runtime/metrics/trace.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <sstream>
#include <string>

#include "runtime/base/error.h"

namespace penstock {
namespace {

namespace fs = std::filesystem;

class TraceFile : public testing::Test {
 protected:
  void SetUp() override {
    std::string pattern = (fs::temp_directory_path() / "penstock-trace-XXXXXX").string();
    folder_ = mkdtemp(pattern.data());
    file_ = folder_ / "trace.json";
    job_.model_name = "quo\"ted";
    job_.micro_batches = 3;
    job_.stages = {{0, "here", "CPU", "embedding"}, {1, "there", "CPU", "layers"}};
  }
  void TearDown() override { fs::remove_all(folder_); }

  static void add(proto::StageReport& report, proto::Activity activity, uint64_t step, double begin,
                  double end, uint32_t tokens = 0) {
    proto::StageEvent& e = *report.add_events();
    e.set_activity(activity);
    e.set_step(step);
    e.set_begin_ns(static_cast<uint64_t>(1e9 * begin));
    e.set_duration_ns(static_cast<uint64_t>(1e9 * (end - begin)));
    e.set_tokens(tokens);
  }
  std::string text() const {
    std::stringstream all;
    all << std::ifstream(file_).rdbuf();
    return all.str();
  }
  void write(const std::string& text) const { std::ofstream(file_) << text; }

  /// Stage 0 runs 1 to 2 and 3 to 4 of its clock; stage 1, whose clock is 100 s ahead, follows it.
  void write_two_stages(bool whole = true) {
    TraceWriter writer(file_, job_, 1000000000);
    proto::StageReport first;
    add(first, proto::ACTIVITY_BUSY, 7, 1, 2, 40);
    add(first, proto::ACTIVITY_SEND, 7, 2, 2.25);
    add(first, proto::ACTIVITY_WAIT_INPUT, 7, 2.25, 3);
    add(first, proto::ACTIVITY_BUSY, 8, 3, 4, 20);
    first.set_made_ns(4000000000);
    writer.add(first, 4000000000);
    proto::StageReport second;
    second.set_rank(1);
    add(second, proto::ACTIVITY_BUSY, 7, 102, 103, 40);
    add(second, proto::ACTIVITY_WAIT_PLAN, 8, 103, 103.5);
    add(second, proto::ACTIVITY_BUSY, 8, 104, 105, 20);
    second.set_made_ns(105000000000);
    writer.add(second, 5000000000);
    if (whole) writer.finish();
  }

  fs::path folder_, file_;
  JobDescription job_;
};

TEST_F(TraceFile, TellsReplicasApart) {
  job_.replicas = 2;
  write_two_stages();
  EXPECT_NE(text().find("replica 1, stage 0: layers (rank 1"), std::string::npos) << text();
  EXPECT_NE(text().find("\"0F1\""), std::string::npos);
  EXPECT_EQ(text().find("\"1F"), std::string::npos) << "each replica has one stage";
  EXPECT_EQ(read_trace(file_).replicas, 2);
  std::string broken = text();
  broken.replace(broken.find("\"replicas\":2"), 12, "\"replicas\":3");
  write(broken);
  EXPECT_THROW(read_trace(file_), UsageError);
}

TEST_F(TraceFile, SaysWhereTheTimeOfEachStageWent) {
  write_two_stages();
  const Trace trace = read_trace(file_);
  EXPECT_EQ(trace.model, "quo\"ted");
  EXPECT_EQ(trace.micro_batches, 3);
  ASSERT_EQ(trace.stages.size(), 2u);
  EXPECT_EQ(trace.stages[1].name, "stage 1: layers (rank 1, there, CPU)");
  const std::vector<TimeByCause> t = time_by_cause(trace);
  EXPECT_DOUBLE_EQ(t[0].busy, 2);
  EXPECT_DOUBLE_EQ(t[0].send, 0.25);
  EXPECT_DOUBLE_EQ(t[0].wait_input, 0.75);
  EXPECT_DOUBLE_EQ(t[0].fill, 0);
  EXPECT_NEAR(t[0].drain, 1, 1e-6);
  EXPECT_NEAR(t[1].fill, 1, 1e-6);  // by the quickest report the clocks are 100 s apart
  EXPECT_NEAR(t[1].wait_plan, 0.5, 1e-6);
  EXPECT_NEAR(t[1].other, 0.5, 1e-6);
  EXPECT_NEAR(t[1].drain, 0, 1e-6);
  EXPECT_EQ(t[1].forwards, 2);
  EXPECT_EQ(t[1].tokens, 60);
  for (const TimeByCause& s : t)
    EXPECT_NEAR(s.fill + s.busy + s.wait_input + s.wait_plan + s.send + s.other + s.drain, 4, 1e-6);
}

TEST_F(TraceFile, NamesForwardsAsTheScheduleDoes) {
  write_two_stages();
  EXPECT_NE(text().find(R"({"name":"0F1","cat":"busy","ph":"X","ts":0.000,"dur":1000000.000,"pid":0,"tid":0,)"
                        R"("args":{"step":7,"slot":1,"tokens":40}})"),
            std::string::npos)
      << text();
}

TEST_F(TraceFile, CanBeReadWhenAKilledJobLeftItWithoutItsEnd) {
  write_two_stages(false);
  const std::string cut_off = text();
  EXPECT_EQ(time_by_cause(read_trace(file_))[1].forwards, 2);
  write(cut_off.substr(0, cut_off.size() - 20));
  EXPECT_EQ(time_by_cause(read_trace(file_))[1].forwards, 1);
}

TEST_F(TraceFile, LetsNoStretchOverlapWhenTheOtherClockIsKnownBetter) {
  TraceWriter writer(file_, job_, 1000000000);
  proto::StageReport r;
  r.set_rank(1);
  add(r, proto::ACTIVITY_BUSY, 0, 10, 11, 1);
  r.set_made_ns(11000000000);
  writer.add(r, 13000000000);  // two seconds on the way
  r.clear_events();
  add(r, proto::ACTIVITY_BUSY, 1, 11, 12, 1);
  r.set_made_ns(12000000000);
  writer.add(r, 12000000000);  // none: the first estimate was two seconds late
  writer.finish();
  const Trace trace = read_trace(file_);
  ASSERT_EQ(trace.stages[1].events.size(), 2u);
  EXPECT_GE(trace.stages[1].events[1].begin, trace.stages[1].events[0].end);
}

TEST_F(TraceFile, IsOnTheDiskAsFarAsStagesHaveReported) {
  TraceWriter writer(file_, job_, 0);
  proto::StageReport r;
  add(r, proto::ACTIVITY_BUSY, 0, 10, 11, 1);
  writer.add(r, 0);
  EXPECT_EQ(read_trace(file_).stages[0].events.size(), 1u);
}

TEST_F(TraceFile, SaysWhenTheDiskIsFull) {
  if (!fs::exists("/dev/full")) GTEST_SKIP() << "no /dev/full";
  TraceWriter writer("/dev/full", job_, 0);
  proto::StageReport r;
  add(r, proto::ACTIVITY_BUSY, 0, 10, 11, 1);
  EXPECT_THROW(writer.add(r, 0), Error);
}

TEST_F(TraceFile, RefusesWhatIsNoTrace) {
  for (const char* bad : {"", "{}", "[\n{\"name\":1}\n]\n", "[\n]\n", "[\nnonsense\n]\n",
                          "[\n{\"name\":\"x\",\"ph\":\"X\",\"pid\":5,\"ts\":1,\"dur\":1}\n]\n"}) {
    write(bad);
    EXPECT_THROW(read_trace(file_), UsageError) << bad;
  }
  EXPECT_THROW(read_trace(folder_ / "missing"), UsageError);
  EXPECT_THROW(TraceWriter(folder_ / "no/such/folder", job_, 0), UsageError);
}

}  // namespace
}  // namespace penstock
