// The whole program on the demo checkpoint, its stages as threads of this process over loopback: can be
// debugged, and watched by the thread sanitizer, without mpirun.
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <sstream>
#include <string>
#include <vector>

#include "launch/program.h"

namespace penstock {
namespace {

namespace fs = std::filesystem;

const fs::path kSource = PENSTOCK_SOURCE_DIR;

class Pipeline : public testing::Test {
 protected:
  void SetUp() override {
    std::string pattern = (fs::temp_directory_path() / "penstock-test-XXXXXX").string();
    folder_ = mkdtemp(pattern.data());
    std::ifstream all(kSource / "tests/data/gsm8k.jsonl");
    std::ofstream some(folder_ / "in.jsonl");
    std::string line;
    for (int i = 0; i < 6 && std::getline(all, line); ++i) {
      // A short sampled answer with log-probabilities, so that every bit of the head's work shows.
      const size_t at = line.find("\"max_tokens\"");
      some << line.substr(0, at)
           << R"("max_tokens": 12, "temperature": 0.8, "top_p": 0.9, "seed": 5, "logprobs": 2,)"
           << R"("return_token_ids": true, "add_special_tokens": false}})" << '\n';
    }
  }
  void TearDown() override { fs::remove_all(folder_); }

  std::string answers(std::vector<std::string> flags) {
    std::vector<std::string> args{
        "penstock", "generate",           "--model", kSource / "tests/models/gsm-llama-18",
        "-i",       folder_ / "in.jsonl", "-o",      folder_ / "out.jsonl"};
    args.insert(args.end(), flags.begin(), flags.end());
    std::vector<const char*> argv;
    for (const std::string& a : args) argv.push_back(a.c_str());
    fs::remove(folder_ / "out.jsonl");
    EXPECT_EQ(run_program(static_cast<int>(argv.size()), argv.data()), 0);
    std::stringstream text;
    text << std::ifstream(folder_ / "out.jsonl", std::ios::binary).rdbuf();
    return text.str();
  }

  fs::path folder_;
};

TEST_F(Pipeline, GivesTheSameBytesFromOneStageToFive) {
  const std::string one = answers({"--threads", "1"});
  EXPECT_NE(one.find("\"finish_reason\":\"length\""), std::string::npos);
  for (const char* stages : {"2", "3", "4", "5"})
    EXPECT_TRUE(answers({"--pp", stages, "--threads", "1"}) == one) << stages << " stages";
}

TEST_F(Pipeline, GivesTheSameBytesInSmallChunksWithFewBlocksAndFewMicroBatches) {
  const std::string one = answers({"--threads", "2"});
  EXPECT_TRUE(answers({"--pp", "3", "--max-num-seqs", "3", "--max-num-batched-tokens", "7"}) == one);
  EXPECT_TRUE(answers({"--pp", "4", "--micro-batches", "1"}) == one);
  EXPECT_TRUE(answers({"--pp", "2", "--micro-batches", "7", "--max-num-seqs", "1"}) == one);
  // 256 tokens of cache for 6 rows of about 100: some are preempted and filled again.
  EXPECT_TRUE(answers({"--pp", "2", "--max-model-len", "256", "--kv-cache-memory-bytes", "1179648"}) == one);
}

TEST_F(Pipeline, GivesTheSameBytesFromSeveralReplicas) {
  const std::string one = answers({"--threads", "1"});
  EXPECT_TRUE(answers({"--pp", "2", "--dp", "2", "--threads", "1"}) == one);
  EXPECT_TRUE(answers({"--dp", "3", "--threads", "1"}) == one);
  EXPECT_TRUE(answers({"--pp", "3", "--dp", "2", "--max-num-batched-tokens", "7"}) == one);
  EXPECT_TRUE(answers({"--dp", "8", "--threads", "1"}) == one) << "more replicas than rows";
  // Each has 256 tokens of cache: some rows are preempted and filled again.
  EXPECT_TRUE(answers({"--pp", "2", "--dp", "2", "--max-model-len", "256", "--kv-cache-memory-bytes",
                       "1179648", "--port", "0", "--trace", folder_ / "trace.json", "--guard",
                       "p99_itl_ms=0.001,for=0.01", "--metrics-interval", "0.005"}) == one);
}

/// Rows that ask for everything that changes logits, ends a text or looks at the prompt.
TEST_F(Pipeline, RowsWithRulesGiveTheSameBytesHoweverTheWorkIsCut) {
  std::ifstream plain(folder_ / "in.jsonl");
  std::string rows;
  const char* const asks[] = {R"("repetition_penalty": 1.4, "prompt_logprobs": 1,)",
                              R"("frequency_penalty": 1.5, "presence_penalty": 0.5,)",
                              R"("logit_bias": {"17": 3, "18": -100}, "min_tokens": 9,)",
                              R"("bad_words": ["the", "he is"], "n": 2,)",
                              R"("stop": ["0", "ab"], "include_stop_str_in_output": true,)",
                              R"("echo": true, "allowed_token_ids": [16, 17, 18, 19, 20, 21, 22, 23],)"};
  std::string line;
  for (size_t i = 0; std::getline(plain, line); ++i)
    rows += line.insert(line.find("\"max_tokens\""), asks[i % 6]) + "\n";
  plain.close();
  rows +=
      R"({"custom_id": "chat", "url": "/v1/chat/completions", "body": {"messages": [{"role": "user", "content":)"
      R"( "How many?"}], "max_tokens": 12, "seed": 3, "logprobs": true, "top_logprobs": 2, "prompt_logprobs": 2}})"
      "\n";
  std::ofstream(folder_ / "in.jsonl") << rows;
  const std::string one = answers({"--threads", "1"});
  EXPECT_EQ(one.find("\"error\":{"), std::string::npos) << one;
  EXPECT_NE(one.find("\"prompt_logprobs\":[null,{"), std::string::npos);
  EXPECT_NE(one.find("chat.completion"), std::string::npos);
  EXPECT_TRUE(answers({"--pp", "3", "--threads", "1"}) == one);
  EXPECT_TRUE(answers({"--pp", "2", "--max-num-seqs", "3", "--max-num-batched-tokens", "7"}) == one);
  EXPECT_TRUE(answers({"--pp", "2", "--max-model-len", "256", "--kv-cache-memory-bytes", "1179648"}) == one);
  EXPECT_TRUE(answers({"--pp", "2", "--dp", "2", "--max-num-seqs", "2"}) == one);
}

TEST_F(Pipeline, GivesTheSameBytesWhileWatchedTracedAndGuarded) {
  const std::string one = answers({"--threads", "1"});
  EXPECT_TRUE(
      answers({"--pp", "3", "--threads", "1", "--port", "0", "--trace", folder_ / "trace.json", "--guard",
               "p99_itl_ms=0.001,memory=0.0001,for=0.01", "--metrics-interval", "0.005"}) == one);
  EXPECT_GT(fs::file_size(folder_ / "trace.json"), 1000u);
}

}  // namespace
}  // namespace penstock
