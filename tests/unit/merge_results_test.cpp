// The parts' answers joined: in the input's order, complete, one answer a custom_id.
#include "runtime/requests/merge_results.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <fstream>
#include <sstream>

#include "runtime/base/error.h"
#include "runtime/requests/answer.h"
#include "runtime/requests/hdf5/results_reader.h"
#include "runtime/requests/hdf5/results_writer.h"

namespace penstock {
namespace {

namespace fs = std::filesystem;

class MergeResults : public testing::Test {
 protected:
  void SetUp() override { fs::create_directories(folder_); }
  void TearDown() override { fs::remove_all(folder_); }

  static std::string answered(const std::string& id) {
    Answer answer;
    answer.custom_id = id;
    answer.choices.resize(1);
    answer.choices[0].text = "the \"error\": null of " + id;
    return format_answer(answer) + "\n";
  }
  fs::path write(const std::string& name, const std::string& text) {
    std::ofstream(folder_ / name, std::ios::binary) << text;
    return folder_ / name;
  }
  std::string merged(const std::vector<fs::path>& parts) {
    report_ = merge_results(parts, folder_ / "all.jsonl");
    std::ostringstream bytes;
    bytes << std::ifstream(folder_ / "all.jsonl", std::ios::binary).rdbuf();
    return bytes.str();
  }
  std::string refusal(const std::vector<fs::path>& parts) {
    try {
      merged(parts);
    } catch (const UsageError& e) {
      EXPECT_FALSE(fs::exists(folder_ / "all.jsonl"));
      return e.what();
    }
    return "nothing was refused";
  }

  const fs::path folder_ = fs::path(testing::TempDir()) / ("penstock-merge-" + std::to_string(getpid()));
  MergeReport report_;
};

TEST_F(MergeResults, PartsComeInTheirOrderWhateverTheOrderGiven) {
  std::vector<fs::path> parts;
  std::string expected;
  for (int i = 0; i < 11; ++i) {
    const std::string line = answered("row-" + std::to_string(i));
    expected += line;
    parts.insert(parts.begin(), write("r.shard-" + std::to_string(i) + "-of-11.jsonl", line));
  }
  EXPECT_EQ(merged(parts), expected);
  EXPECT_EQ(report_.rows, 11U);
}

TEST_F(MergeResults, FilesThatAreNotNamedAsPartsComeAsGiven) {
  EXPECT_EQ(merged({write("b.jsonl", answered("1")), write("a.jsonl", answered("2"))}),
            answered("1") + answered("2"));
}

TEST_F(MergeResults, AMissingPartIsNamed) {
  const std::string said =
      refusal({write("r.shard-0-of-4.jsonl", answered("1")), write("r.shard-3-of-4.jsonl", answered("2"))});
  EXPECT_NE(said.find("expected all 4 parts, found none of part 1, 2"), std::string::npos) << said;
}

TEST_F(MergeResults, PartsOfDifferentCutsOrTwiceTheSameAreRefused) {
  const fs::path first = write("r.shard-0-of-2.jsonl", answered("1"));
  EXPECT_NE(refusal({first, write("r.shard-1-of-3.jsonl", answered("2"))}).find("expected parts of 2"),
            std::string::npos);
  EXPECT_NE(refusal({first, write("s.shard-0-of-2.jsonl", answered("2"))}).find("twice"), std::string::npos);
  EXPECT_NE(refusal({first, write("other.jsonl", answered("2"))}).find("or none"), std::string::npos);
  EXPECT_NE(refusal({first, folder_ / "r.shard-1-of-2.h5"}).find("expected all files HDF5 or all JSON lines"),
            std::string::npos);
}

TEST_F(MergeResults, ACustomIdOfAnEarlierPartMakesTheRowAnError) {
  const std::string all = merged({write("r.shard-0-of-2.jsonl", answered("a") + answered("b")),
                                  write("r.shard-1-of-2.jsonl", answered("b") + answered("c"))});
  EXPECT_EQ(report_.repeated_ids, 1U);
  EXPECT_EQ(report_.rows, 4U);
  EXPECT_NE(all.find("'b' was used in an earlier part"), std::string::npos);
  EXPECT_EQ(all.find(answered("c")), all.size() - answered("c").size());
}

TEST_F(MergeResults, ErrorsStayAsTheyAre) {
  const std::string error = format_error({"a", "prompt: expected text", "prompt"}) + "\n";
  EXPECT_EQ(
      merged({write("r.shard-0-of-2.jsonl", error), write("r.shard-1-of-2.jsonl", error + answered("a"))}),
      error + error + answered("a"));
  EXPECT_EQ(report_.repeated_ids, 0U);
}

TEST_F(MergeResults, APartThatLostTheEndOfItsLastLineIsRefused) {
  const std::string line = answered("b");
  for (size_t lost = 1; lost < line.size(); ++lost) {
    const fs::path torn = write("b.jsonl", answered("a") + line.substr(0, line.size() - lost));
    EXPECT_THROW(merged({torn}), Error) << lost << " bytes are lost";
  }
  EXPECT_EQ(merged({write("none.jsonl", ""), write("b.jsonl", line)}), line);
}

TEST_F(MergeResults, Hdf5PartsMakeTheFileThatOneRunMakes) {
  const auto row = [](int i) {
    ResultRow r{"row-" + std::to_string(i), "", 1, {{"text", "stop", "", {i, i + 1}, {-1.F, -2.F}, {}, {}}}};
    if (i == 2) r.choices[0].top = {{{2, -1.F}}, {{3, -2.F}, {9, -3.F}}};
    return r;
  };
  const auto make = [&](const fs::path& path, int begin, int end, RunSettings settings) {
    Hdf5Results results(path, settings);
    for (int i = begin; i < end; ++i) results.add(row(i));
    results.finish();
    return path;
  };
  const fs::path whole = make(folder_ / "whole.h5", 0, 5, {{"model", "m"}, {"--shard", "0/1"}});
  const std::vector<fs::path> parts{
      make(folder_ / "p.shard-1-of-2.h5", 2, 5, {{"model", "m"}, {"--shard", "1/2"}}),
      make(folder_ / "p.shard-0-of-2.h5", 0, 2, {{"model", "m"}, {"--shard", "0/2"}})};
  EXPECT_EQ(merge_results(parts, folder_ / "joined.h5").rows, 5U);
  const auto bytes = [](const fs::path& path) {
    std::ostringstream text;
    text << std::ifstream(path, std::ios::binary).rdbuf();
    return text.str();
  };
  EXPECT_EQ(bytes(folder_ / "joined.h5"), bytes(whole));

  make(folder_ / "p.shard-1-of-2.h5", 2, 5, {{"model", "another"}, {"--shard", "1/2"}});
  EXPECT_THROW(merge_results(parts, folder_ / "joined.h5"), UsageError);
}

}  // namespace
}  // namespace penstock
