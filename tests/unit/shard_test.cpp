// Parts of an input: disjoint, complete, in order, with the whole file's line numbers.
#include <gtest/gtest.h>
#include <unistd.h>

#include <fstream>
#include <vector>

#include "runtime/base/error.h"
#include "runtime/requests/line_reader.h"

namespace penstock {
namespace {

namespace fs = std::filesystem;

class Shards : public testing::Test {
 protected:
  void TearDown() override { fs::remove(path_); }
  void write(const std::string& text) { std::ofstream(path_, std::ios::binary) << text; }

  struct Line {
    std::string text;
    uint64_t number;
    bool operator==(const Line&) const = default;
  };
  std::vector<Line> read(const Shard& shard) {
    LineReader reader(path_, 100, shard);
    std::vector<Line> lines;
    std::string text;
    for (LineSource::Status status; (status = reader.next(text)) != LineSource::Status::end;)
      lines.push_back({status == LineSource::Status::line ? text : "too long", reader.line_number()});
    return lines;
  }
  void expect_whole(uint64_t shards) {
    std::vector<Line> together;
    for (uint64_t i = 0; i < shards; ++i)
      for (Line& line : read({i, shards})) together.push_back(std::move(line));
    EXPECT_EQ(together, read({})) << shards << " shards";
  }

  const fs::path path_ = fs::path(testing::TempDir()) / ("penstock-shards-" + std::to_string(getpid()));
};

TEST_F(Shards, TogetherTheyAreTheWholeFileWhereverTheCutsFall) {
  for (const std::string text :
       {"a\nbb\n\nccc\r\ndddd\n", "a\nbb\nno newline at the end", "one line", "", "\n", "\n\n\n"}) {
    write(text);
    for (uint64_t shards = 1; shards <= text.size() + 3; ++shards) expect_whole(shards);
  }
}

TEST_F(Shards, ALineThatIsTooLongBelongsToTheShardInWhichItBegins) {
  write("a\n" + std::string(1000, 'x') + "\nb\n");
  for (uint64_t shards = 1; shards <= 20; ++shards) expect_whole(shards);
}

TEST_F(Shards, LineNumbersAreTheWholeFilesBeyondTheFirstBuffer) {
  std::string text;
  for (int i = 1; i <= 60000; ++i) text += "line " + std::to_string(i) + "\n";
  write(text);
  for (const Line& line : read({2, 3})) ASSERT_EQ(line.text, "line " + std::to_string(line.number));
  expect_whole(3);
}

TEST_F(Shards, ProgressCountsTheShardsBytesOnly) {
  write(std::string(1000, '\n'));
  LineReader reader(path_, 100, {1, 4});
  EXPECT_EQ(reader.total_bytes(), 250U);
  std::string line;
  while (reader.next(line) != LineSource::Status::end) {
  }
  EXPECT_GE(reader.bytes_read(), reader.total_bytes());
}

TEST_F(Shards, ThePartsOfAnyCountAddUp) {
  for (const uint64_t size : {uint64_t{0}, uint64_t{1}, uint64_t{10}, UINT64_MAX}) {
    uint64_t end = 0;
    for (uint64_t i = 0; i < 7; ++i) {
      const Range range = range_of({i, 7}, size);
      EXPECT_EQ(range.begin, end);
      end = range.end;
    }
    EXPECT_EQ(end, size);
  }
}

TEST_F(Shards, TheFlagIsReadStrictly) {
  EXPECT_EQ(parse_shard("3/4").index, 3U);
  EXPECT_EQ(parse_shard("3/4").count, 4U);
  EXPECT_TRUE(parse_shard("0/1").whole());
  for (const char* text : {"", "1", "4/4", "-1/4", "0/0", "1/2x", "a/b", "1 /2"})
    EXPECT_THROW(parse_shard(text), UsageError) << text;
}

TEST_F(Shards, APipeCannotBeDivided) {
  EXPECT_THROW(LineReader("/dev/null", 100, {0, 2}), UsageError);
}

}  // namespace
}  // namespace penstock
