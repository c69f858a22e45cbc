#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <climits>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <sstream>
#include <thread>

#include "runtime/base/error.h"
#include "runtime/requests/batch_job.h"
#include "runtime/requests/id_set.h"
#include "runtime/requests/line_reader.h"

namespace penstock {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::json;

class BatchFiles : public testing::Test {
 protected:
  void SetUp() override {
    std::string pattern = (fs::temp_directory_path() / "penstock-test-XXXXXX").string();
    folder_ = mkdtemp(pattern.data());
  }
  void TearDown() override { fs::remove_all(folder_); }
  fs::path file(const std::string& name, const std::string& content) const {
    std::ofstream(folder_ / name, std::ios::binary) << content;
    return folder_ / name;
  }
  static std::string content(const fs::path& path) {
    std::stringstream text;
    text << std::ifstream(path, std::ios::binary).rdbuf();
    return text.str();
  }

  BatchJobOptions options(const std::string& input) const {
    BatchJobOptions o;
    o.input.path = file("in.jsonl", input);
    o.scheduler = {8, 32, 4, 100, 2};
    o.intake.max_model_len = 64;
    o.intake.vocab_size = 50;
    o.model_name = "m";
    return o;
  }

  static void score(uint64_t sequence, uint32_t id, proto::SampledToken& token) {
    token.set_sequence(sequence);
    token.set_token(id);
    token.set_logprob(-0.125F * static_cast<float>(id));
    token.set_rank(id + 1);
    token.add_top_tokens(id % 7);
    token.add_top_logprobs(-0.0625F * static_cast<float>(id));
  }

  /// One replica: a model whose next token is the position of the last one, or 20 further once a plan says
  /// that the cache has been renewed.
  struct Pipeline {
    std::array<proto::StepResult, 2> slots;
    std::array<bool, 2> busy{};
    uint32_t other = 0;  // than the first precision's tokens
    bool done = false;

    void run(const proto::Plan& plan, size_t slot) {
      if (plan.full_precision_blocks() > 0) {
        EXPECT_EQ(plan.full_precision_blocks(), 90U);
        EXPECT_FALSE(busy[1 - slot]) << "a micro-batch is in flight on the cache that goes";
        other = 20;
      }
      busy[slot] = !plan.rows().empty();
      slots[slot].Clear();
      for (const auto& row : plan.rows()) {
        for (const uint32_t target : row.targets()) score(row.sequence(), target, *slots[slot].add_scored());
        if (row.has_sampling())
          score(row.sequence(), (row.start() + static_cast<uint32_t>(row.tokens_size()) + other) % 50,
                *slots[slot].add_tokens());
      }
    }
  };

  /// Plays the replicas until the job is done; drains it after `steps` micro-batches, and renews the cache
  /// when `renew_after` of them have been planned. Returns what finish() says; `tokens`: by replica.
  static bool play(BatchJob& job, int steps = INT_MAX, int renew_after = INT_MAX, int replicas = 1,
                   std::array<int64_t, 2>* tokens = nullptr) {
    std::vector<Pipeline> pipelines(static_cast<size_t>(replicas));
    for (bool done = false; !done;) {
      done = true;
      for (int r = 0; r < replicas; ++r) {
        Pipeline& p = pipelines[static_cast<size_t>(r)];
        for (int m = 0; m < 2 && !p.done; ++m) {
          const auto slot = static_cast<size_t>(m);
          if (p.busy[slot]) job.take_in(r, m, p.slots[slot]);
          if (p.busy[slot] && tokens != nullptr)
            (*tokens).at(static_cast<size_t>(r)) += p.slots[slot].tokens_size();
          if (steps == 0) job.drain();
          if (renew_after == 0) {
            job.renew_cache(90, "other numerics");
            renew_after = INT_MAX;
          }
          const proto::Plan plan = job.plan(r, m);
          p.run(plan, slot);
          renew_after -= p.busy[slot] ? 1 : 0;
          steps -= p.busy[slot] ? 1 : 0;  // while the reader is slow there is nothing to plan
          if (!p.busy[0] && !p.busy[1]) p.done = job.finished(r).value_or(false);
        }
        done = done && p.done;
      }
    }
    return job.finish();
  }

  std::vector<Json> answers(const std::string& input) const {
    BatchJob job(options(input), nullptr, make_direct_sink(folder_ / "out.jsonl"));
    play(job);
    std::vector<Json> lines;
    std::ifstream out(folder_ / "out.jsonl");
    for (std::string l; std::getline(out, l);) lines.push_back(Json::parse(l));
    return lines;
  }

  fs::path folder_;
};

std::string row(const std::string& id, const std::string& body) {
  return R"({"custom_id": ")" + id + R"(", "url": "/v1/completions", "body": {)" + body + "}}\n";
}

TEST_F(BatchFiles, AnswersComeInTheInputsOrderWhateverEndsFirst) {
  std::string input;
  for (int i = 0; i < 50; ++i)
    input +=
        row(std::to_string(i), "\"prompt\": [1, 2], \"max_tokens\": " + std::to_string(1 + (i * 7) % 20));
  const std::vector<Json> lines = answers(input);
  ASSERT_EQ(lines.size(), 50U);
  for (int i = 0; i < 50; ++i) {
    EXPECT_EQ(lines[static_cast<size_t>(i)]["custom_id"], std::to_string(i));
    EXPECT_EQ(lines[static_cast<size_t>(i)]["response"]["body"]["usage"]["completion_tokens"],
              1 + (i * 7) % 20);
  }
}

TEST_F(BatchFiles, ABadRowIsARowAndTheOthersGoOn) {
  const std::vector<Json> lines = answers(
      row("good", "\"prompt\": [1], \"max_tokens\": 2") + "{not json\n\n" + row("good", "\"prompt\": [1]") +
      row(
          "long", "\"prompt\": [" + std::string(200, ' ') + "1" +
                      [] {
                        std::string s;
                        for (int i = 0; i < 70; ++i) s += ", 1";
                        return s;
                      }() +
                      "]") +
      row("greedy", "\"prompt\": [1, 2], \"max_tokens\": 63") + row("vocabulary", "\"prompt\": [50]") +
      row("text", "\"prompt\": \"hello\"") + row("last", "\"prompt\": [3], \"max_tokens\": 1"));
  ASSERT_EQ(lines.size(), 8U);
  const auto message = [&](size_t i) { return lines[i]["error"]["message"].get<std::string>(); };
  EXPECT_TRUE(lines[0]["error"].is_null());
  EXPECT_NE(message(1).find("line 2: the line is not valid JSON"), std::string::npos) << message(1);
  EXPECT_NE(message(2).find("line 4: custom_id: 'good' was used by an earlier line"), std::string::npos)
      << message(2);
  EXPECT_NE(message(3).find("prompt: expected at most 63 tokens"), std::string::npos) << message(3);
  EXPECT_NE(message(3).find("found 71"), std::string::npos) << message(3);
  EXPECT_NE(message(4).find("max_tokens: expected at most 62"), std::string::npos) << message(4);
  EXPECT_NE(message(5).find("expected token ids below 50, found 50"), std::string::npos) << message(5);
  EXPECT_NE(message(6).find("no tokenizer.json"), std::string::npos) << message(6);
  EXPECT_EQ(lines[7]["custom_id"], "last");
  EXPECT_TRUE(lines[7]["error"].is_null());
}

TEST_F(BatchFiles, SeveralPromptsTimesNGiveThatManyChoices) {
  const std::vector<Json> lines =
      answers(row("a", R"("prompt": [[1], [2, 3]], "n": 2, "max_tokens": 1, "return_token_ids": true)"));
  const Json& choices = lines.at(0)["response"]["body"]["choices"];
  ASSERT_EQ(choices.size(), 4U);
  EXPECT_EQ(choices[1]["prompt_token_ids"], Json({1}));
  EXPECT_EQ(choices[2]["prompt_token_ids"], Json({2, 3}));
  EXPECT_EQ(choices[3]["index"], 3);
  EXPECT_EQ(lines[0]["response"]["body"]["usage"]["prompt_tokens"], 3);
}

TEST_F(BatchFiles, DrainedAndGoneOnWithAtAnyStepItWritesTheSameBytes) {
  std::string input = "{not json\n";
  for (int i = 0; i < 12; ++i)
    input += row(std::to_string(i),
                 "\"prompt\": [1, " + std::to_string(i) + "], \"n\": " + std::to_string(1 + i % 3) +
                     ", \"logprobs\": 1, \"max_tokens\": " + std::to_string(1 + (i * 7) % 20) +
                     (i % 4 < 2 ? "" : ", \"prompt_logprobs\": 1"));
  answers(input);
  const std::string undisturbed = content(folder_ / "out.jsonl");
  for (int steps = 0; steps < 60; steps += 3) {
    fs::remove_all(folder_ / "kept.jsonl.journal");
    int64_t computed = 0;
    int jobs = 0;
    for (bool complete = false; !complete && jobs < 100; ++jobs) {
      JournalOptions journaled;
      journaled.output = folder_ / "kept.jsonl";
      Journal journal(journaled);
      journal.begin({}, 13);
      BatchJob job(options(input), nullptr, make_journal_sink(journal));
      complete = play(job, steps + 2);
      computed += job.progress().generated_tokens;
    }
    EXPECT_EQ(content(folder_ / "kept.jsonl"), undisturbed) << "drained every " << steps << " steps";
    int64_t tokens = 0;
    for (int i = 0; i < 12; ++i) tokens += (1 + i % 3) * (1 + (i * 7) % 20);
    EXPECT_EQ(computed, tokens) << "no token is computed twice, " << jobs << " jobs";
  }
}

TEST_F(BatchFiles, SeveralReplicasShareTheRowsAndGiveTheSameFile) {
  std::string input;
  for (int i = 0; i < 40; ++i)
    input += row(std::to_string(i), R"("prompt": [1, 2, 3], "return_token_ids": true, "max_tokens": )" +
                                        std::to_string(1 + (i * 7) % 40) + (i % 3 == 0 ? R"(, "n": 3)" : ""));
  const auto file_of = [&](int replicas, int steps, int renew_after) {
    fs::remove_all(folder_ / "out.jsonl.journal");
    fs::remove(folder_ / "out.jsonl");
    for (int jobs = 0; jobs < 100; ++jobs) {
      Journal journal({folder_ / "out.jsonl", Resume::automatic, {}, {}});
      journal.begin({{"how numbers are computed", "the first"}}, 40);
      BatchJobOptions o = options(input);
      o.scheduler.max_num_seqs = 4;  // most rows wait
      o.replicas = replicas;
      BatchJob job(o, nullptr, make_journal_sink(journal));
      if (play(job, steps, renew_after, replicas)) break;
    }
    return content(folder_ / "out.jsonl");
  };
  const std::string one = file_of(1, INT_MAX, INT_MAX);
  EXPECT_EQ(std::count(one.begin(), one.end(), '\n'), 40);
  for (const int replicas : {2, 3, 5}) {
    EXPECT_EQ(file_of(replicas, INT_MAX, INT_MAX), one) << replicas << " replicas";
    EXPECT_EQ(file_of(replicas, 30, INT_MAX), one) << replicas << " replicas, drained again and again";
  }
  const std::string renewed = file_of(1, INT_MAX, 0);
  EXPECT_EQ(file_of(2, INT_MAX, 0), renewed);
  // A row that was cut short over two replicas is whole in one precision or the other.
  std::istringstream first(one), second(renewed), found(file_of(2, INT_MAX, 60));
  std::string a, b, line;
  int of_first = 0, of_second = 0;
  while (std::getline(found, line) && std::getline(first, a) && std::getline(second, b)) {
    EXPECT_TRUE(line == a || line == b) << line;
    (line == a ? of_first : of_second) += 1;
  }
  EXPECT_EQ(of_first + of_second, 40);
  EXPECT_GT(of_second, 0);
}

TEST_F(BatchFiles, AReplicaThatRunsOutOfRowsTakesOverWhatWaitsElsewhere) {
  // The first of each two rows is long: handed out in turns, one replica has nearly all the work.
  std::string input;
  for (int i = 0; i < 8; ++i)
    input += row(std::to_string(i), R"("prompt": [1], "max_tokens": )" + std::to_string(i % 2 == 0 ? 50 : 1));
  BatchJobOptions o = options(input);
  o.scheduler.max_num_seqs = 2;
  o.scheduler.max_num_batched_tokens = 8;
  o.replicas = 2;
  BatchJob job(o, nullptr, make_direct_sink("/dev/null"));
  while (!job.progress().input_ended) std::this_thread::sleep_for(std::chrono::milliseconds(1));
  std::array<int64_t, 2> tokens{};
  EXPECT_TRUE(play(job, INT_MAX, INT_MAX, 2, &tokens));
  EXPECT_EQ(tokens[0] + tokens[1], 4 * 51);
  EXPECT_GT(std::min(tokens[0], tokens[1]), 50) << "one of the long ones";
}

TEST_F(BatchFiles, ADrainDoesNotWaitForAnInputThatStaysOpen) {
  const fs::path pipe = folder_ / "pipe";
  ASSERT_EQ(mkfifo(pipe.c_str(), 0600), 0);
  const FileHandle writer(open(pipe.c_str(), O_RDWR | O_CLOEXEC));
  BatchJobOptions o = options("");
  o.input.path = pipe;
  BatchJob job(o, nullptr, make_direct_sink("/dev/null"));
  write_all(writer, row("a", "\"prompt\": [1]") + R"({"custom_id": "half a line)", pipe);
  std::thread stopping([&job] {
    while (job.progress().rows_done == 0) std::this_thread::sleep_for(std::chrono::milliseconds(1));
    job.drain();
  });
  EXPECT_FALSE(play(job));
  stopping.join();
  EXPECT_EQ(job.progress().rows_read, 1);
}

TEST_F(BatchFiles, AJobThatIsGivenUpDoesNotWaitForItsInput) {
  const fs::path pipe = folder_ / "pipe";
  ASSERT_EQ(mkfifo(pipe.c_str(), 0600), 0);
  const FileHandle writer(open(pipe.c_str(), O_RDWR | O_CLOEXEC));
  BatchJobOptions o = options("");
  o.input.path = pipe;
  const BatchJob job(o, nullptr, make_direct_sink("/dev/null"));
}

TEST_F(BatchFiles, ARowIsWhollyOfOnePrecisionAndSaysWhich) {
  std::string input;
  for (int i = 0; i < 12; ++i)
    input += row(std::to_string(i), R"("prompt": [1, 2, 3], "return_token_ids": true, "max_tokens": )" +
                                        std::to_string(3 + 2 * i) + (i % 3 == 0 ? R"(, "n": 2)" : "") +
                                        (i % 4 == 0 ? R"(, "logprobs": 1, "prompt_logprobs": 1)" : ""));
  const auto lines = [&](int renew_after) {
    Journal journal({folder_ / "out.jsonl", Resume::never, {}, {}});
    journal.begin({{"how numbers are computed", "the first"}}, 12);
    BatchJob job(options(input), nullptr, make_journal_sink(journal));
    EXPECT_TRUE(play(job, INT_MAX, renew_after));
    std::vector<Json> found;
    std::ifstream out(folder_ / "out.jsonl");
    for (std::string l; std::getline(out, l);) found.push_back(Json::parse(l));
    int64_t renewed = 0;
    for (const Json& l : found) renewed += l["response"]["body"].contains("system_fingerprint") ? 1 : 0;
    EXPECT_EQ(job.progress().rows_renewed, renewed);
    return found;
  };
  const std::vector<Json> first = lines(INT_MAX);
  const std::vector<Json> second = lines(0);
  for (const Json& line : first) EXPECT_FALSE(line["response"]["body"].contains("system_fingerprint"));
  int mixed = 0;
  for (const int after : {1, 2, 3, 5, 20, 40, 45, 50, 55, 60}) {
    const std::vector<Json> found = lines(after);
    ASSERT_EQ(found.size(), 12U);
    bool some_first = false;
    bool some_second = false;
    for (size_t i = 0; i < found.size(); ++i) {
      const bool other = found[i]["response"]["body"].value("system_fingerprint", "") == "other numerics";
      EXPECT_EQ(found[i], other ? second[i] : first[i]) << "row " << i << ", renewed after " << after;
      (other ? some_second : some_first) = true;
    }
    mixed += some_first && some_second ? 1 : 0;
  }
  EXPECT_GT(mixed, 0) << "no renewal came while rows were done and others were not";
}

TEST_F(BatchFiles, TokensSavedInAnotherPrecisionAreComputedAgain) {
  std::string input;
  for (int i = 0; i < 8; ++i)
    input += row(std::to_string(i), R"("prompt": [1, 2, 3], "return_token_ids": true, "max_tokens": 30)");
  const auto job = [&](int steps, int renew_after) {
    Journal journal({folder_ / "out.jsonl", Resume::automatic, {}, {}});
    journal.begin({{"how numbers are computed", "the first"}}, 8);
    BatchJob batch(options(input), nullptr, make_journal_sink(journal));
    return play(batch, steps, renew_after);
  };
  EXPECT_TRUE(job(INT_MAX, INT_MAX));
  const std::string undisturbed = content(folder_ / "out.jsonl");
  fs::remove(folder_ / "out.jsonl");
  fs::remove_all(folder_ / "out.jsonl.journal");
  EXPECT_FALSE(job(12, 2)) << "drained with rows of the second precision under way";
  EXPECT_TRUE(job(INT_MAX, INT_MAX));
  EXPECT_EQ(content(folder_ / "out.jsonl"), undisturbed);
}

TEST_F(BatchFiles, AnEmptyFileGivesAnEmptyFile) {
  EXPECT_TRUE(answers("").empty());
}

TEST_F(BatchFiles, TheTargetsNameIsGivenOnlyToAWholeFile) {
  {
    BatchJob job(options(row("a", "\"prompt\": [1]")), nullptr, make_direct_sink(folder_ / "out.jsonl"));
    EXPECT_TRUE(fs::exists(folder_ / "out.jsonl.partial"));
  }
  EXPECT_FALSE(fs::exists(folder_ / "out.jsonl"));
  answers(row("a", "\"prompt\": [1]"));
  EXPECT_TRUE(fs::exists(folder_ / "out.jsonl"));
  EXPECT_FALSE(fs::exists(folder_ / "out.jsonl.partial"));
}

TEST_F(BatchFiles, AFullDiskStopsTheJobWithTheReason) {
  BatchJob job(options(row("a", "\"prompt\": [1]")), nullptr, make_direct_sink("/dev/full"));
  try {
    play(job);
    FAIL();
  } catch (const Error& e) {
    EXPECT_NE(std::string(e.what()).find("/dev/full: writing failed: No space left on device"),
              std::string::npos)
        << e.what();
  }
}

TEST_F(BatchFiles, PathsThatCannotWorkAreRefusedAtOnce) {
  EXPECT_THROW(make_direct_sink(folder_ / "no" / "out.jsonl"), UsageError);
  EXPECT_THROW(make_direct_sink(folder_), UsageError);
  BatchJobOptions o = options("");
  o.input.path = folder_ / "none.jsonl";
  EXPECT_THROW(BatchJob(o, nullptr, make_direct_sink("/dev/null")), UsageError);
  o.input.path = folder_;
  EXPECT_THROW(BatchJob(o, nullptr, make_direct_sink("/dev/null")), UsageError);
}

TEST_F(BatchFiles, LinesComeWholeWhateverTheirLength) {
  std::string text;
  std::vector<std::string> expected;
  for (size_t length : {0U, 1U, 300000U, 5U, 262143U, 262144U, 262145U, 10U}) {
    expected.emplace_back(length, static_cast<char>('a' + length % 26));
    text += expected.back() + (length % 2 == 0 ? "\n" : "\r\n");
  }
  expected.emplace_back("no newline at the end");
  LineReader reader(file("lines", text + expected.back()), 1U << 20);
  std::string line;
  for (const std::string& want : expected) {
    ASSERT_EQ(reader.next(line), LineReader::Status::line);
    EXPECT_EQ(line.size(), want.size());
    EXPECT_TRUE(line == want);
  }
  EXPECT_EQ(reader.next(line), LineReader::Status::end);
  EXPECT_EQ(reader.bytes_read(), reader.total_bytes());
}

TEST_F(BatchFiles, AnOverlongLineIsPassedOverAndTheNextIsRead) {
  LineReader reader(file("lines", "a\n" + std::string(3000000, 'x') + "\nb\n" + std::string(200, 'y')), 100);
  std::string line;
  EXPECT_EQ(reader.next(line), LineReader::Status::line);
  EXPECT_EQ(reader.next(line), LineReader::Status::too_long);
  EXPECT_EQ(reader.next(line), LineReader::Status::line);
  EXPECT_EQ(line, "b");
  EXPECT_EQ(reader.next(line), LineReader::Status::too_long);
  EXPECT_EQ(reader.next(line), LineReader::Status::end);
}

TEST(IdSet, KnowsEveryIdItHasSeen) {
  IdSet ids;
  for (int i = 0; i < 20000; ++i) EXPECT_TRUE(ids.insert("row-" + std::to_string(i)));
  for (int i = 0; i < 20000; ++i) EXPECT_FALSE(ids.insert("row-" + std::to_string(i)));
}

}  // namespace
}  // namespace penstock
