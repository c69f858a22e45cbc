// Prompts out of HDF5 and answers into it, through the library itself, hostile files included.
#include <gtest/gtest.h>
#include <hdf5.h>
#include <unistd.h>

#include <cmath>
#include <fstream>
#include <sstream>

#include "runtime/base/error.h"
#include "runtime/requests/answer.h"
#include "runtime/requests/hdf5/answer_line.h"
#include "runtime/requests/hdf5/journaled_row.h"
#include "runtime/requests/hdf5/prompts.h"
#include "runtime/requests/hdf5/results_reader.h"
#include "runtime/requests/hdf5/results_writer.h"
#include "runtime/requests/journal/journal.h"

namespace penstock {
namespace {

namespace fs = std::filesystem;
using Status = LineSource::Status;

class Hdf5 : public testing::Test {
 protected:
  void SetUp() override { fs::create_directories(folder_); }
  void TearDown() override { fs::remove_all(folder_); }

  /// A file that is open for writing; ends with its owner.
  struct File {
    explicit File(const fs::path& path)
        : id(H5Fcreate(path.c_str(), H5F_ACC_TRUNC, H5P_DEFAULT, H5P_DEFAULT)) {}
    ~File() { H5Fclose(id); }
    hid_t id;
  };
  static void write(hid_t place, const char* name, hid_t type, size_t count, const void* data) {
    const hsize_t size = count;
    const hid_t space = H5Screate_simple(1, &size, nullptr);
    const hid_t set = H5Dcreate2(place, name, type, space, H5P_DEFAULT, H5P_DEFAULT, H5P_DEFAULT);
    H5Dwrite(set, type, H5S_ALL, H5S_ALL, H5P_DEFAULT, data);
    H5Dclose(set);
    H5Sclose(space);
  }
  static void write(hid_t place, const char* name, const std::vector<const char*>& texts) {
    const hid_t type = H5Tcopy(H5T_C_S1);
    H5Tset_size(type, H5T_VARIABLE);
    write(place, name, type, texts.size(), texts.data());
    H5Tclose(type);
  }
  void write_ids(const std::vector<int64_t>& ids, const std::vector<int64_t>& offsets) {
    const File file(input_);
    const hid_t group = H5Gcreate2(file.id, "prompts", H5P_DEFAULT, H5P_DEFAULT, H5P_DEFAULT);
    write(group, "ids", H5T_NATIVE_INT64, ids.size(), ids.data());
    write(group, "offsets", H5T_NATIVE_INT64, offsets.size(), offsets.data());
    H5Gclose(group);
  }
  std::vector<std::string> lines(InputSpec input = {}, size_t longest = 1000) {
    input.path = input_;
    Hdf5Prompts prompts(input, longest);
    std::vector<std::string> all;
    std::string line;
    for (Status status; (status = prompts.next(line)) != Status::end;)
      all.push_back(status == Status::line ? line : "too long");
    return all;
  }
  std::string refusal(const std::function<void()>& work) {
    try {
      work();
    } catch (const Error& e) {
      return e.what();
    }
    return "nothing was refused";
  }
  static std::string bytes_of(const fs::path& path) {
    std::ostringstream bytes;
    bytes << std::ifstream(path, std::ios::binary).rdbuf();
    return bytes.str();
  }

  const fs::path folder_ = fs::path(testing::TempDir()) / ("penstock-hdf5-" + std::to_string(getpid()));
  const fs::path input_ = folder_ / "in.h5";
  const fs::path output_ = folder_ / "out.h5";
};

// ---- prompts ----

TEST_F(Hdf5, StringsOfVariableLengthBecomeRequestLines) {
  {
    const File file(input_);
    write(file.id, "prompts", {"one", "a \"quoted\"\nline", ""});
  }
  EXPECT_EQ(lines(),
            (std::vector<std::string>{
                R"({"custom_id":"row-0","url":"/v1/completions","body":{"prompt":"one"}})",
                R"({"custom_id":"row-1","url":"/v1/completions","body":{"prompt":"a \"quoted\"\u000aline"}})",
                R"({"custom_id":"row-2","url":"/v1/completions","body":{"prompt":""}})"}));
}

TEST_F(Hdf5, StringsOfFixedLengthEndBeforeTheirPadding) {
  {
    const File file(input_);
    const hid_t type = H5Tcopy(H5T_C_S1);
    H5Tset_size(type, 4);
    write(file.id, "prompts", type, 2, "ab\0\0full");
    H5Tclose(type);
  }
  const auto found = lines();
  ASSERT_EQ(found.size(), 2U);
  EXPECT_NE(found[0].find("\"ab\""), std::string::npos) << found[0];
  EXPECT_NE(found[1].find("\"full\""), std::string::npos) << found[1];
}

TEST_F(Hdf5, TokenIdsAreCutAtTheirOffsets) {
  write_ids({7, 8, 9, 10, 11}, {0, 2, 2, 5});
  const auto found = lines();
  ASSERT_EQ(found.size(), 3U);
  EXPECT_EQ(found[0], R"({"custom_id":"row-0","url":"/v1/completions","body":{"prompt":[7,8]}})");
  EXPECT_NE(found[1].find("[]"), std::string::npos);
  EXPECT_NE(found[2].find("[9,10,11]"), std::string::npos);
}

TEST_F(Hdf5, CustomIdsLieBesideThePromptsAndTheBodyComesFromFileAndFlag) {
  {
    const File file(input_);
    write(file.id, "text", {"x", "y"});
    write(file.id, "custom_id", {"first", "second"});
    const hid_t set = H5Dopen2(file.id, "text", H5P_DEFAULT);
    const hid_t type = H5Tcopy(H5T_C_S1);
    H5Tset_size(type, 64);
    const hid_t space = H5Screate(H5S_SCALAR);
    const hid_t attribute = H5Acreate2(set, "body", type, space, H5P_DEFAULT, H5P_DEFAULT);
    char body[64] = R"({"max_tokens": 3, "top_k": 5})";
    H5Awrite(attribute, type, body);
    H5Aclose(attribute);
    H5Sclose(space);
    H5Tclose(type);
    H5Dclose(set);
  }
  EXPECT_EQ(
      lines({{}, {}, "text", R"({"max_tokens": 9})"})[1],
      R"({"custom_id":"second","url":"/v1/completions","body":{"prompt":"y","max_tokens":9,"top_k":5}})");
}

TEST_F(Hdf5, ShardsTogetherAreTheWhole) {
  write_ids({1, 2, 3, 4, 5, 6, 7}, {0, 1, 2, 3, 4, 5, 6, 7});
  std::vector<std::string> together;
  for (uint64_t i = 0; i < 3; ++i)
    for (std::string& line : lines({{}, {i, 3}, {}, {}})) together.push_back(std::move(line));
  EXPECT_EQ(together, lines());
}

TEST_F(Hdf5, MoreRowsThanABlockComeInOrder) {
  std::vector<int64_t> ids(3000), offsets(3001);
  for (size_t i = 0; i < 3000; ++i) {
    ids[i] = static_cast<int64_t>(i);
    offsets[i + 1] = static_cast<int64_t>(i + 1);
  }
  write_ids(ids, offsets);
  const auto found = lines();
  ASSERT_EQ(found.size(), 3000U);
  EXPECT_NE(found[2999].find("[2999]"), std::string::npos);
}

TEST_F(Hdf5, ALongRowIsPassedOverAndItsNeighboursAreNot) {
  const std::string longer(100000, 'x');
  {
    const File file(input_);
    write(file.id, "prompts", {"before", longer.c_str(), "after"});
  }
  const auto found = lines();
  ASSERT_EQ(found.size(), 3U);
  EXPECT_NE(found[0].find("before"), std::string::npos);
  EXPECT_EQ(found[1], "too long");
  EXPECT_NE(found[2].find("after"), std::string::npos);
}

TEST_F(Hdf5, MemoryIsBoundedWhenABlockOfStringsIsLarge) {
  const std::string large(size_t{3} << 20, 'x');
  {
    const File file(input_);
    write(file.id, "prompts", std::vector<const char*>(20, large.c_str()));
  }
  const auto found = lines({}, size_t{16} << 20);
  ASSERT_EQ(found.size(), 20U);
  for (const std::string& line : found) EXPECT_GT(line.size(), large.size());
}

TEST_F(Hdf5, OffsetsThatLeadOutsideAreRefusedBeforeAnythingIsRead) {
  write_ids({1, 2, 3}, {0, 2, int64_t{1} << 60});
  EXPECT_NE(refusal([&] { lines(); }).find("offset 2: expected at least the one before and at most 3"),
            std::string::npos);
  write_ids({1, 2, 3}, {0, 2, 1});
  EXPECT_NE(refusal([&] { lines(); }).find("offset 2"), std::string::npos);
  write_ids({1, 2, 3}, {-1, 2});
  EXPECT_NE(refusal([&] { lines(); }).find("offset 0"), std::string::npos);
}

TEST_F(Hdf5, WhatIsNoInputIsRefusedWithTheThingExpected) {
  std::ofstream(input_) << "not HDF5";
  EXPECT_NE(refusal([&] { lines(); }).find("cannot be opened as HDF5"), std::string::npos);
  {
    const File file(input_);
    const double numbers[] = {1, 2};
    write(file.id, "prompts", H5T_NATIVE_DOUBLE, 2, numbers);
    write(file.id, "custom_id", {"only one"});
    write(file.id, "text", {"x", "y"});
  }
  EXPECT_NE(refusal([&] { lines(); }).find("expected strings"), std::string::npos);
  EXPECT_NE(refusal([&] { lines({{}, {}, "nowhere", {}}); }).find("--input-dataset"), std::string::npos);
  EXPECT_NE(refusal([&] {
              lines({{}, {}, "text", {}});
            }).find("expected 2 ids, one a prompt, found 1"),
            std::string::npos);
  write_ids({1}, {0, 1});
  EXPECT_NE(refusal([&] { lines({{}, {}, {}, "[]"}); }).find("--input-body"), std::string::npos);
}

// ---- answers ----

ResultChoice choice(std::string text, std::vector<int32_t> tokens) {
  ResultChoice c{std::move(text), "length", "", std::move(tokens), {}, {}, {}};
  for (const int32_t id : c.tokens) c.logprobs.push_back(-0.125F * static_cast<float>(id));
  return c;
}

std::vector<ResultRow> sample_rows() {
  std::vector<ResultRow> rows;
  rows.push_back({"plain", "", 3, {choice("hello", {1, 2, 3})}});
  rows.push_back({"bad", "prompt: expected something", 0, {}});
  rows.push_back({"two", "", 2, {choice("a", {4}), choice("\xC3\xA4", {5, 6})}});
  rows.back().choices[1].finish_reason = "stop";
  rows.back().choices[1].stop_reason = "\n\n";
  rows.back().choices[1].prompt_tokens = {9, 8};
  rows.push_back({"top", "", 1, {choice("t", {7, 8})}});
  rows.back().choices[0].top = {{{7, -0.5F}, {2, -1.5F}}, {{8, -0.25F}, {1, -2.F}, {0, -4.F}}};
  rows.push_back({"empty", "", 1, {choice("", {})}});
  return rows;
}

void expect_same(const ResultRow& found, const ResultRow& expected) {
  EXPECT_EQ(found.custom_id, expected.custom_id);
  EXPECT_EQ(found.error, expected.error);
  EXPECT_EQ(found.prompt_tokens, expected.prompt_tokens);
  ASSERT_EQ(found.choices.size(), expected.choices.size()) << expected.custom_id;
  for (size_t i = 0; i < found.choices.size(); ++i) {
    const ResultChoice& f = found.choices[i];
    const ResultChoice& e = expected.choices[i];
    EXPECT_EQ(f.text, e.text);
    EXPECT_EQ(f.finish_reason, e.finish_reason);
    EXPECT_EQ(f.stop_reason, e.stop_reason);
    EXPECT_EQ(f.tokens, e.tokens);
    EXPECT_EQ(f.logprobs, e.logprobs);
    EXPECT_EQ(f.top, e.top) << expected.custom_id;
    EXPECT_EQ(f.prompt_tokens, e.prompt_tokens);
  }
}

void write_results(const fs::path& path, const std::vector<ResultRow>& rows) {
  Hdf5Results results(path, {{"model", "demo"}, {"seed", "7"}});
  for (const ResultRow& row : rows) results.add(row);
  results.finish();
}

TEST_F(Hdf5, AnswersComeBackAsTheyWentIn) {
  write_results(output_, sample_rows());
  Hdf5ResultsReader reader(output_);
  EXPECT_EQ(reader.settings(), (RunSettings{{"model", "demo"}, {"seed", "7"}}));
  EXPECT_EQ(reader.rows(), sample_rows().size());
  ResultRow row;
  for (const ResultRow& expected : sample_rows()) {
    ASSERT_TRUE(reader.next(row));
    expect_same(row, expected);
  }
  EXPECT_FALSE(reader.next(row));
}

TEST_F(Hdf5, ManyRowsCrossChunksAndStayWhole) {
  std::vector<ResultRow> rows;
  for (int32_t i = 0; i < 20000; ++i) {
    rows.push_back(
        {"row-" + std::to_string(i), "", i, {choice("text " + std::to_string(i), {i, i + 1, i + 2})}});
    if (i % 1000 == 500) rows.back().choices[0].top = {{{i, -1.F}}, {{i, -2.F}}, {{i, -3.F}, {1, -9.F}}};
  }
  write_results(output_, rows);
  Hdf5ResultsReader reader(output_);
  ResultRow row;
  for (const ResultRow& expected : rows) {
    ASSERT_TRUE(reader.next(row));
    expect_same(row, expected);
    if (HasFailure()) return;
  }
}

TEST_F(Hdf5, TheSameAnswersMakeTheSameBytes) {
  write_results(output_, sample_rows());
  const std::string first = bytes_of(output_);
  sleep(1);  // a time stamp would change
  write_results(output_, sample_rows());
  EXPECT_EQ(bytes_of(output_), first);
}

TEST_F(Hdf5, UntilItIsFinishedNothingStandsUnderTheName) {
  write_results(output_, {});
  const std::string before = bytes_of(output_);
  {
    Hdf5Results results(output_, {});
    results.add(sample_rows()[0]);
  }
  EXPECT_EQ(bytes_of(output_), before);
  EXPECT_EQ(std::distance(fs::directory_iterator(folder_), {}), 1) << "a partial file was left";
}

TEST_F(Hdf5, AZeroInATextDoesNotEndIt) {
  write_results(output_, {{"zero", "", 1, {choice(std::string("a\0b", 3), {1})}}});
  ResultRow row;
  ASSERT_TRUE(Hdf5ResultsReader(output_).next(row));
  EXPECT_EQ(row.choices[0].text,
            "a\xEF\xBF\xBD"
            "b");
}

// ---- from the journal ----

proto::FinishedRow finished_row(bool logprobs) {
  Answer answer;
  answer.custom_id = "a";
  answer.prompt_tokens = 3;
  if (logprobs) answer.fields.logprobs = 2;
  answer.choices.resize(1);
  Choice& choice = answer.choices[0];
  choice.text = R"(a text with "logprobs":{ in it)";
  choice.stop_reason = 4;
  choice.token_texts = {{"}\\\"{", {}}, {"\"logprobs\":{", {}}};  // what a careless reader would trip over
  choice.sequence = {0, {{3, -0.5F, {}}, {4, -0.1F, {}}}, FinishReason::stop};
  proto::FinishedRow row;
  row.set_line(format_answer(answer));
  proto::JournaledChoice& numbers = *row.add_choices();
  for (const int id : {3, 4}) {
    numbers.add_tokens(id);
    numbers.add_logprobs(-0.125F * static_cast<float>(id));
    proto::Alternatives& top = *numbers.add_top();
    top.add_tokens(id);
    top.add_logprobs(-0.125F * static_cast<float>(id));
  }
  return row;
}

TEST_F(Hdf5, AJournaledRowGivesItsTextFromTheLineAndItsNumbersFromTheChoices) {
  const ResultRow row = result_row_of(finished_row(true));
  EXPECT_EQ(row.custom_id, "a");
  EXPECT_EQ(row.prompt_tokens, 3);
  ASSERT_EQ(row.choices.size(), 1U);
  const ResultChoice& found = row.choices[0];
  EXPECT_EQ(found.text, R"(a text with "logprobs":{ in it)");
  EXPECT_EQ(found.finish_reason, "stop");
  EXPECT_EQ(found.stop_reason, "4");
  EXPECT_EQ(found.tokens, (std::vector<int32_t>{3, 4}));
  EXPECT_EQ(found.logprobs, (std::vector<float>{-0.375F, -0.5F}));
  ASSERT_EQ(found.top.size(), 2U);
  EXPECT_EQ(found.top[1][0].first, 4);
}

TEST_F(Hdf5, ARowThatWasComputedOtherwiseThanTheFileSaysSo) {
  Answer answer;
  answer.custom_id = "a";
  answer.system_fingerprint = "float32 cpu-avx512-1";
  proto::FinishedRow line;
  line.set_line(format_answer(answer));
  write_results(output_, {result_row_of(line), {"plain", "", 1, {}}});
  Hdf5ResultsReader reader(output_);
  ResultRow row;
  ASSERT_TRUE(reader.next(row));
  EXPECT_EQ(row.system_fingerprint, "float32 cpu-avx512-1");
  ASSERT_TRUE(reader.next(row));
  EXPECT_EQ(row.system_fingerprint, "");
}

TEST_F(Hdf5, LogprobsThatNobodyAskedForAreNoNumbers) {
  const ResultRow row = result_row_of(finished_row(false));
  for (const float logprob : row.choices[0].logprobs) EXPECT_TRUE(std::isnan(logprob));
  EXPECT_TRUE(row.choices[0].top.empty());
}

TEST_F(Hdf5, AJournaledErrorKeepsItsMessage) {
  proto::FinishedRow row;
  row.set_line(format_error({"bad", "prompt: expected text", "prompt"}));
  row.set_failed(true);
  EXPECT_EQ(result_row_of(row).error, "prompt: expected text");
  EXPECT_EQ(result_row_of(row).custom_id, "bad");
}

TEST_F(Hdf5, ALineWithoutItsNumbersIsRefused) {
  proto::FinishedRow row = finished_row(true);
  row.clear_choices();
  EXPECT_NE(refusal([&] { result_row_of(row); }).find("was it written for another output?"),
            std::string::npos);
  row.set_line("{}");
  EXPECT_NE(refusal([&] { result_row_of(row); }).find("is no answer line"), std::string::npos);
}

TEST_F(Hdf5, AJournalMakesTheFileInTheInputsOrderWithItsSettings) {
  const JobSettings settings{{"model", "demo"}, {"seed", "7"}};
  const auto append = [](Journal& journal, uint64_t number) {
    proto::JournalRecord record;
    *record.mutable_finished() = finished_row(true);
    record.mutable_finished()->set_number(number);
    journal.writer().append(record);
  };
  {
    Journal killed({output_, {}, {}, {}});
    killed.begin(settings, 3);
    append(killed, 2);
  }
  EXPECT_FALSE(fs::exists(output_));
  Journal journal({output_, {}, {}, {}});
  journal.begin(settings, 3);
  append(journal, 1);
  append(journal, 0);
  journal.complete();
  EXPECT_TRUE(journal.output_stands(settings, 3));
  Hdf5ResultsReader reader(output_);
  EXPECT_EQ(reader.settings(), settings);
  EXPECT_EQ(reader.rows(), 3U);
}

TEST_F(Hdf5, WithoutATokenizerTheLineComesBackAsItWas) {
  Answer answer;
  answer.custom_id = "a";
  answer.model = "m";
  answer.prompt_tokens = 2;
  answer.fields.logprobs = 1;
  answer.fields.return_token_ids = true;
  answer.prompt_token_ids = {{5, 6}, {5, 6}, {5, 6}};
  answer.choices.resize(3);
  proto::FinishedRow row;
  for (Choice& choice : answer.choices) {
    choice.text = "text";
    choice.token_texts = {{"token_id:3", {"token_id:7"}}, {"token_id:4", {"token_id:4"}}};
    choice.sequence = {0, {{3, -0.5F, {{7, -0.25F}}}, {4, -0.1F, {{4, -0.1F}}}}, FinishReason::stop};
    proto::JournaledChoice& numbers = *row.add_choices();
    for (const GeneratedToken& token : choice.sequence.tokens) {
      numbers.add_tokens(token.id);
      numbers.add_logprobs(token.logprob);
      numbers.add_top()->add_tokens(token.top[0].first);
      numbers.mutable_top()->rbegin()->add_logprobs(token.top[0].second);
    }
  }
  answer.choices[0].stop_reason = 4;
  answer.choices[1].stop_string = "\n";
  answer.choices[2].sequence.reason = FinishReason::length;
  row.set_line(format_answer(answer));
  write_results(output_, {result_row_of(row), {"bad", "prompt: expected text", 0, {}}});

  Hdf5ResultsReader reader(output_);
  ResultRow read;
  ASSERT_TRUE(reader.next(read));
  EXPECT_EQ(answer_line(read, "m"), row.line());
  ASSERT_TRUE(reader.next(read));
  EXPECT_EQ(answer_line(read, "m"), format_error({"bad", "prompt: expected text", ""}));
}

TEST_F(Hdf5, AnotherHdf5FileIsNoFileOfAnswers) {
  write_ids({1}, {0, 1});
  EXPECT_NE(refusal([&] { Hdf5ResultsReader reader(input_); }).find("penstock_results"), std::string::npos);
}

}  // namespace
}  // namespace penstock
