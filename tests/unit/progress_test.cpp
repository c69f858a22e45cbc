// What a user reads while a job runs and when it ends: figures, the line now and then, the closing table.
#include "launch/progress.h"

#include <gtest/gtest.h>

namespace penstock {
namespace {

/// A job that found 900 of 1000 rows finished, 40 of them errors, and has done 10 more in 5 seconds.
JobProgress resumed() {
  JobProgress p;
  p.rows_done = 910;
  p.rows_resumed = 900;
  p.rows_failed = 42;
  p.failed_resumed = 40;
  p.rows_read = 1000;
  p.input_ended = true;
  p.seconds = 5;
  return p;
}

TEST(Progress, RowsOfEarlierJobsAreNoSpeedOfThisOne) {
  const JobFigures f = job_figures(resumed());
  ASSERT_TRUE(f.eta_seconds);
  EXPECT_DOUBLE_EQ(*f.eta_seconds, 45) << "90 rows at 2 rows/s";
  EXPECT_EQ(f.rows_resumed, 900);
  EXPECT_EQ(f.failed_resumed, 40);
  JobProgress begin = resumed();
  begin.rows_done = begin.rows_resumed;
  begin.seconds = 0.001;
  const std::string line = progress_line(f, job_figures(begin));
  EXPECT_EQ(line.rfind("rows 910 of about 1000 (91 %), 2.0 rows/s, ETA 45 s,", 0), 0u) << line;
}

TEST(Progress, NothingIsToldOfTheEndBeforeARowOfThisJobIsDone) {
  JobProgress begin = resumed();
  begin.rows_done = begin.rows_resumed;
  EXPECT_FALSE(job_figures(begin).eta_seconds);
}

TEST(Progress, TheTableTellsThisJobsRowsApartFromEarlierOnes) {
  const std::string table = closing_summary(resumed(), {}, ReadyRank{}, "out.jsonl");
  EXPECT_EQ(table.rfind("10 rows in 5 s (2 with errors), 900 before (40): 2.0 rows/s,", 0), 0u) << table;
}

TEST(Progress, TheTableNamesRowsOfAnotherPrecision) {
  JobProgress end = resumed();
  ReadyRank ready;
  ready.full_numerics = "float32 cpu-1";
  EXPECT_EQ(closing_summary(end, {}, ready, "out.jsonl").find("system_fingerprint"), std::string::npos);
  end.rows_renewed = 7;
  EXPECT_NE(
      closing_summary(end, {}, ready, "out.jsonl").find("7 of these rows were computed in float32 cpu-1"),
      std::string::npos);
}

}  // namespace
}  // namespace penstock
