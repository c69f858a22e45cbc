#include "runtime/requests/journal/journal.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <atomic>
#include <fstream>
#include <sstream>
#include <thread>

#include "runtime/base/error.h"

namespace penstock {
namespace {

namespace fs = std::filesystem;

class JournalTest : public testing::Test {
 protected:
  void SetUp() override {
    std::string pattern = (fs::temp_directory_path() / "penstock-journal-XXXXXX").string();
    folder_ = mkdtemp(pattern.data());
    output_ = folder_ / "out.jsonl";
  }
  void TearDown() override { fs::remove_all(folder_); }

  static std::string content(const fs::path& path) {
    std::stringstream text;
    text << std::ifstream(path, std::ios::binary).rdbuf();
    return text.str();
  }
  static void write(const fs::path& path, const std::string& text) {
    std::ofstream(path, std::ios::binary) << text;
  }
  static proto::JournalRecord finished(uint64_t row, const std::string& line) {
    proto::JournalRecord record;
    record.mutable_finished()->set_number(row);
    record.mutable_finished()->set_line(line);
    return record;
  }
  static std::string line_of(uint64_t row) {
    return "line " + std::to_string(row) + std::string(row % 7, '.');
  }

  JournalOptions options(Resume resume = Resume::automatic) const {
    JournalOptions o;
    o.output = output_;
    o.resume = resume;
    o.commit.delay = std::chrono::milliseconds(20);
    o.lock.heartbeat = std::chrono::milliseconds(20);
    return o;
  }
  /// A job that finishes `rows` of ten and dies.
  void job(const std::vector<uint64_t>& rows, const JobSettings& settings = {{"--seed", "1"}}) const {
    Journal journal(options());
    journal.begin(settings, 10);
    for (const uint64_t row : rows) journal.writer().append(finished(row, line_of(row)));
    journal.writer().sync();
  }
  static std::string whole_output() {
    std::string text;
    for (uint64_t row = 0; row < 10; ++row) text += line_of(row) + "\n";
    return text;
  }
  std::string refusal(const JobSettings& settings, uint64_t rows = 10) const {
    Journal journal(options());
    try {
      journal.check(settings, rows);
    } catch (const UsageError& e) {
      return e.what();
    }
    return "";
  }
  fs::path segment(uint32_t number) const { return segment_path(journal_of(output_), number); }

  fs::path folder_;
  fs::path output_;
};

TEST_F(JournalTest, ChecksumsAreCrc32c) {
  EXPECT_EQ(crc32c("123456789"), 0xE3069283U);  // RFC 3720's check value
  EXPECT_EQ(crc32c(std::string(32, '\0')), 0x8A9136AAU);
}

TEST_F(JournalTest, ARecordLooksAsTheDocumentsSay) {
  job({});
  Journal journal(options());
  journal.begin({{"--seed", "1"}}, 10);
  journal.writer().append(finished(7, "{}"));
  journal.writer().sync();
  EXPECT_EQ(content(segment(1)),
            std::string("PNSTKJ1\n\x08\0\0\0\x6b\x71\xa1\x09\x0a\x06\x08\x07\x12\x02{}", 24));
}

TEST_F(JournalTest, ItsCommitsAreToldOnceTheirRecordsAreDurable) {
  std::atomic<int> told = 0;
  std::atomic<double> seconds = 0;
  Journal journal(options());
  journal.begin({}, 10, [&](std::chrono::duration<double> took) {
    seconds = took.count();
    ++told;
  });
  journal.writer().append(finished(0, line_of(0)));
  journal.writer().sync();
  EXPECT_EQ(told, 1);
  EXPECT_GT(seconds, 0);
  journal.writer().sync();
  EXPECT_EQ(told, 1) << "nothing was left to commit";
}

TEST_F(JournalTest, TheOutputComesInTheInputsOrderWhateverEndsFirst) {
  Journal journal(options());
  journal.begin({}, 10);
  for (const uint64_t row : {9U, 3U, 0U, 5U, 4U, 8U, 1U, 2U, 7U, 6U})
    journal.writer().append(finished(row, line_of(row)));
  journal.complete();
  EXPECT_EQ(content(output_), whole_output());
  EXPECT_TRUE(segments_of(journal_of(output_)).empty());
}

TEST_F(JournalTest, AnOutputThatIsALinkStaysOne) {
  write(folder_ / "elsewhere", "old");
  fs::create_symlink(folder_ / "elsewhere", output_);
  job({0, 1, 2, 3, 4, 5, 6, 7, 8, 9});
  {
    Journal journal(options());
    journal.begin({{"--seed", "1"}}, 10);
    journal.complete();
  }
  EXPECT_TRUE(fs::is_symlink(output_));
  EXPECT_EQ(content(folder_ / "elsewhere"), whole_output());
  EXPECT_TRUE(Journal(options()).output_stands({{"--seed", "1"}}, 10));
}

TEST_F(JournalTest, CutAtAnyByteOfTheLastRecordItLosesThatRowOnly) {
  job({0, 1, 2, 3});
  const std::string before = content(segment(1));
  job({4});
  const std::string first = content(segment(1));
  const std::string last = content(segment(2));
  ASSERT_EQ(first, before) << "an earlier job's segment is not touched";
  for (size_t keep = 0; keep < last.size(); ++keep) {
    write(segment(2), last.substr(0, keep));
    {
      Journal journal(options());
      journal.begin({{"--seed", "1"}}, 10);
      EXPECT_EQ(journal.index().finished_rows(), 4U) << "cut at byte " << keep;
      EXPECT_FALSE(journal.index().finished(4));
      for (uint64_t row = 4; row < 10; ++row) journal.writer().append(finished(row, line_of(row)));
      journal.complete();
    }
    EXPECT_EQ(content(output_), whole_output()) << "cut at byte " << keep;
    fs::remove_all(journal_of(output_));
    fs::remove(output_);
    job({});
    write(segment(1), first);
  }
}

TEST_F(JournalTest, AFlippedBitLosesWhatStandsBehindItInThatSegmentAndNothingElse) {
  job({0, 1});
  job({2, 3});
  const std::string whole = content(segment(1));
  for (size_t at = 0; at < whole.size(); ++at) {
    std::string broken = whole;
    broken[at] = static_cast<char>(broken[at] ^ 0x10);
    write(segment(1), broken);
    const JournalIndex index(journal_of(output_), 10);
    EXPECT_LE(index.finished_rows(), 3U) << "byte " << at;
    EXPECT_TRUE(index.finished(2) && index.finished(3)) << "byte " << at;
    ASSERT_EQ(index.torn().size(), 1U) << "byte " << at;
  }
}

TEST_F(JournalTest, ALengthOfGigabytesAsksForNoMemory) {
  job({0});
  write(segment(1), content(segment(1)) + std::string("\xff\xff\xff\x3f", 4) + std::string(100, 'x'));
  EXPECT_EQ(JournalIndex(journal_of(output_), 10).finished_rows(), 1U);
}

TEST_F(JournalTest, TornEndsAreCutOffWhenTheNextJobOpensIt) {
  job({0, 1});
  const std::string whole = content(segment(1));
  write(segment(1), whole + "torn");
  const Journal journal(options());
  EXPECT_EQ(content(segment(1)), whole);
}

TEST_F(JournalTest, ARecordIsDurableSoonWithoutBeingWaitedFor) {
  Journal journal(options());
  journal.begin({}, 10);
  journal.writer().append(finished(3, "x"));
  const auto end = std::chrono::steady_clock::now() + std::chrono::seconds(60);  // only against hanging
  uint64_t seen = 0;
  while (seen == 0 && std::chrono::steady_clock::now() < end) {
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
    seen = read_results(journal_of(output_), [](std::string_view) {}).finished;
  }
  EXPECT_EQ(seen, 1U);
}

TEST_F(JournalTest, ResultsAreReadWhileTheJobRunsAndOnceItIsDone) {
  std::string seen;
  const auto take = [&seen](std::string_view line) { seen += std::string(line) + "\n"; };
  Journal journal(options());
  journal.begin({}, 2);
  journal.writer().append(finished(1, "one"));
  journal.writer().sync();
  EXPECT_EQ(read_results(output_, take).rows, 2U);
  EXPECT_EQ(seen, "one\n");
  journal.writer().append(finished(0, "zero"));
  journal.complete();
  seen.clear();
  EXPECT_EQ(read_results(journal_of(output_), take).finished, 2U);
  EXPECT_EQ(seen, "zero\none\n");
  EXPECT_THROW(read_results(folder_ / "none", take), UsageError);
}

TEST_F(JournalTest, ResultsGoOnInTheOutputWhenTheJobIsDoneWhileTheyAreRead) {
  JournalOptions small = options();
  small.commit.segment_bytes = 1;  // a file a row
  Journal journal(small);
  journal.begin({}, 10);
  for (uint64_t row = 0; row < 10; ++row) {
    journal.writer().append(finished(row, line_of(row)));
    journal.writer().sync();
  }
  std::string seen;
  const JournalCounts counts = read_results(output_, [&](std::string_view line) {
    if (seen.empty()) journal.complete();
    seen += std::string(line) + "\n";
  });
  EXPECT_EQ(seen, whole_output());
  EXPECT_EQ(counts.finished, 10U);
}

TEST_F(JournalTest, SegmentsAreBegunAnewWhenFull) {
  JournalOptions small = options();
  small.commit.segment_bytes = 100;
  Journal journal(small);
  journal.begin({}, 10);
  for (uint64_t row = 0; row < 10; ++row) {
    journal.writer().append(finished(row, line_of(row)));
    journal.writer().sync();
  }
  EXPECT_GT(segments_of(journal_of(output_)).size(), 2U);
  journal.complete();
  EXPECT_EQ(content(output_), whole_output());
}

TEST_F(JournalTest, AnotherJobIsRefusedWithTheDifferenceNamed) {
  job({0, 1}, {{"--seed", "1"}, {"the input", "A"}});
  EXPECT_EQ(refusal({{"--seed", "1"}, {"the input", "A"}}), "");
  const std::string message = refusal({{"--seed", "2"}, {"the input", "A"}});
  EXPECT_NE(message.find("2 finished rows of another job: --seed was 1 and is 2."), std::string::npos)
      << message;
  EXPECT_NE(message.find("--resume=force"), std::string::npos) << message;
  EXPECT_NE(refusal({{"--seed", "1"}, {"the input", "A"}}, 11).find("number of rows was 10 and is 11"),
            std::string::npos);
}

TEST_F(JournalTest, ForceKeepsTheRowsAndNeverDropsThem) {
  job({0, 1});
  {
    Journal forced(options(Resume::force));
    forced.begin({{"--seed", "2"}}, 10);
    EXPECT_EQ(forced.index().finished_rows(), 2U);
  }
  EXPECT_EQ(refusal({{"--seed", "2"}}), "") << "now it is the job with seed 2";
  Journal anew(options(Resume::never));
  anew.begin({{"--seed", "3"}}, 10);
  EXPECT_EQ(anew.index().finished_rows(), 0U);
}

TEST_F(JournalTest, ForcedOntoAShorterInputItLeavesOutTheRowsThatAreNoMore) {
  job({0, 1, 2, 9});
  {
    Journal forced(options(Resume::force));
    forced.begin({{"--seed", "1"}}, 3);
    EXPECT_EQ(forced.index().finished_rows(), 3U);
    forced.complete();
  }
  EXPECT_EQ(content(output_), line_of(0) + "\n" + line_of(1) + "\n" + line_of(2) + "\n");
}

TEST_F(JournalTest, AManifestThatIsDamagedAnywhereIsRefusedAndLosesNoRow) {
  job({0, 1});
  const fs::path manifest = journal_of(output_) / "manifest";
  const std::string whole = content(manifest);
  const std::string rows = content(segment(1));
  const auto expect_refused = [&](const std::string& damaged, const std::string& how) {
    write(manifest, damaged);
    try {
      const Journal journal(options());
      ADD_FAILURE() << how;
    } catch (const UsageError& e) {
      EXPECT_NE(std::string(e.what()).find("--resume=force"), std::string::npos) << e.what();
    }
    EXPECT_EQ(content(segment(1)), rows) << how;
  };
  for (size_t at = 0; at < whole.size(); ++at) {
    expect_refused(whole.substr(0, at), "cut at byte " + std::to_string(at));
    std::string flipped = whole;
    flipped[at] = static_cast<char>(flipped[at] ^ 0x04);
    expect_refused(flipped, "flipped at byte " + std::to_string(at));
  }
  write(manifest, whole);
  EXPECT_EQ(Journal(options()).index().finished_rows(), 2U);
}

TEST_F(JournalTest, ForceKeepsTheRowsOfADamagedOrLostManifest) {
  job({0, 1});
  const fs::path manifest = journal_of(output_) / "manifest";
  const auto expect_kept = [&](const std::string& how) {
    Journal forced(options(Resume::force));
    forced.begin({{"--seed", "1"}}, 10);
    EXPECT_EQ(forced.index().finished_rows(), 2U) << how;
  };
  write(manifest, content(manifest).substr(0, 12));
  expect_kept("cut");
  fs::remove(manifest);
  EXPECT_THROW(Journal{options()}, UsageError);
  expect_kept("lost");
  EXPECT_EQ(refusal({{"--seed", "1"}}), "");
}

TEST_F(JournalTest, WhatHoldsNoRowsOrIsCompletedStandsInNobodysWay) {
  job({});
  EXPECT_EQ(refusal({{"--seed", "2"}}), "");
  job({0, 1, 2, 3, 4, 5, 6, 7, 8, 9});
  {
    Journal journal(options());
    journal.begin({{"--seed", "1"}}, 10);
    journal.complete();
  }
  Journal other(options());
  EXPECT_FALSE(other.output_stands({{"--seed", "2"}}, 10));
  other.begin({{"--seed", "2"}}, 10);
  EXPECT_EQ(other.index().finished_rows(), 0U);
}

TEST_F(JournalTest, AnOutputThatStandsIsKnownAndAChangedOneIsNot) {
  job({0, 1, 2, 3, 4, 5, 6, 7, 8, 9});
  {
    Journal journal(options());
    journal.begin({{"--seed", "1"}}, 10);
    journal.complete();
  }
  EXPECT_TRUE(Journal(options()).output_stands({{"--seed", "1"}}, 10));
  std::string changed = content(output_);
  changed[3] ^= 1;
  write(output_, changed);
  EXPECT_FALSE(Journal(options()).output_stands({{"--seed", "1"}}, 10));
}

TEST_F(JournalTest, AMissingRowIsToldAndNoOutputIsMade) {
  Journal journal(options());
  journal.begin({}, 10);
  journal.writer().append(finished(0, "x"));
  EXPECT_THROW(journal.complete(), Error);
  EXPECT_FALSE(fs::exists(output_));
}

TEST_F(JournalTest, ASecondJobIsRefusedWhileTheFirstLives) {
  const Journal first(options());
  try {
    const Journal second(options());
    FAIL();
  } catch (const UsageError& e) {
    EXPECT_NE(std::string(e.what()).find("pid " + std::to_string(getpid())), std::string::npos) << e.what();
  }
}

TEST_F(JournalTest, TheLockOfADeadJobIsTakenOver) {
  fs::create_directory(journal_of(output_));
  write(journal_of(output_) / "lock", this_machine() + "\nhost here, pid 1\n5\n");
  EXPECT_NO_THROW(Journal{options()});
}

TEST_F(JournalTest, OnAnotherMachineTheHeartbeatTellsTheLivingFromTheDead) {
  fs::create_directory(journal_of(output_));
  const fs::path lock = journal_of(output_) / "lock";
  int beats_at = 0;  // the look before which the other machine's job writes once more
  int looks = 0;
  JournalOptions watching = options();
  watching.lock.looks = 8;
  watching.lock.wait = [&](std::chrono::milliseconds time) {
    EXPECT_EQ(time, watching.lock.heartbeat / 4);
    if (++looks == beats_at) write(lock, "another machine\nhost there, pid 7\n6\n");
  };
  for (beats_at = 1; beats_at <= 8; ++beats_at) {
    write(lock, "another machine\nhost there, pid 7\n5\n");
    looks = 0;
    EXPECT_THROW(Journal{watching}, UsageError) << "a heartbeat before look " << beats_at;
    EXPECT_EQ(looks, beats_at);
  }
  write(lock, "another machine\nhost there, pid 7\n5\n");
  looks = 0;
  EXPECT_NO_THROW(Journal{watching});
  EXPECT_EQ(looks, 8);
}

TEST_F(JournalTest, ADiskThatTakesNoMoreEndsTheJobWithTheReason) {
  JournalOptions o = options();
  o.commit.segment_bytes = 1;
  Journal journal(o);
  journal.begin({}, 10);
  journal.writer().append(finished(0, "x"));
  journal.writer().sync();
  write(segment(2), "in the way");  // as any failure to write would do
  journal.writer().append(finished(1, "y"));
  EXPECT_THROW(journal.writer().sync(), Error);
  EXPECT_THROW(journal.writer().append(finished(2, "z")), Error);
}

}  // namespace
}  // namespace penstock
