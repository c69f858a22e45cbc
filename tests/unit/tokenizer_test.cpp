// The tokenizer against Hugging Face's tokenizers: tests/data/tokenizers holds small tokenizer.json files,
// and what version 0.23.3 of that library answered, of those with a tokenizer_config.json what transformers
// 5.24 did; ../shared/tokenizers real ones.
#include "runtime/requests/text/tokenizer.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <chrono>
#include <filesystem>
#include <fstream>
#include <thread>

#include "runtime/base/error.h"
#include "tests/unit/text_data.h"

namespace penstock {
namespace {

using nlohmann::ordered_json;
using testing_data::data_folder;
using testing_data::random_text;
using testing_data::read_json;
using testing_data::shared_folder;

ordered_json small_file(const std::string& name) {
  return read_json(data_folder() / "tokenizers" / name / "tokenizer.json");
}
std::shared_ptr<const Tokenizer> small(const std::string& name) {
  return Tokenizer::load(data_folder() / "tokenizers" / name);
}

std::string error_of(const ordered_json& file) {
  try {
    Tokenizer::parse(file.dump(), "tokenizer.json");
  } catch (const UsageError& error) {
    return error.what();
  }
  return "no error";
}

TEST(Tokenizer, GivesTheIdsAndTheTextOfTheReference) {
  const auto folders = testing_data::folders_in(data_folder() / "tokenizers");
  ASSERT_GE(folders.size(), 20U);
  for (const auto& folder : folders) {
    const auto tokenizer = Tokenizer::load(folder);
    for (const auto& c : read_json(folder / "cases.json")) {
      const auto text = c["text"].get<std::string>();
      EXPECT_EQ(tokenizer->encode(text, false), c["ids"].get<std::vector<int32_t>>())
          << folder << " " << c["text"];
      EXPECT_EQ(tokenizer->encode(text, true), c["ids_special"].get<std::vector<int32_t>>())
          << folder << " " << c["text"];
      const auto ids = c["dec_ids"].get<std::vector<int32_t>>();
      EXPECT_EQ(tokenizer->decode(ids, false), c["decoded"].get<std::string>())
          << folder << " " << c["dec_ids"];
      EXPECT_EQ(tokenizer->decode(ids, true), c["decoded_skip_special"].get<std::string>())
          << folder << " " << c["dec_ids"];
    }
  }
}

TEST(Tokenizer, GivesTheIdsAndTheTextOfTheSharedCases) {
  const auto folders = testing_data::folders_in(shared_folder() / "tokenizers");
  if (folders.empty()) GTEST_SKIP() << "no " << shared_folder() / "tokenizers";
  for (const auto& folder : folders) {
    const auto tokenizer = Tokenizer::load(folder);
    for (const auto& c : read_json(folder / "cases.json")) {
      const auto ids = c["ids"].get<std::vector<int32_t>>();
      EXPECT_EQ(tokenizer->encode(c["text"].get<std::string>(), false), ids) << folder << " " << c["text"];
      EXPECT_EQ(tokenizer->decode(ids, false), c["decoded"].get<std::string>());
      EXPECT_EQ(tokenizer->decode(ids, true), c["decoded_skip_special"].get<std::string>());
    }
  }
}

TEST(Tokenizer, AConfigThatDoesNotFitIsNamed) {
  const auto folder =
      std::filesystem::temp_directory_path() / ("penstock-tokenizer-" + std::to_string(getpid()));
  std::filesystem::create_directories(folder);
  std::filesystem::copy(data_folder() / "tokenizers" / "gpt2" / "tokenizer.json", folder);
  for (const char* config :
       {R"({"added_tokens_decoder": {"x": {"content": "a"}}})", R"({"added_tokens_decoder": {"5": {}}})",
        R"({"extra_special_tokens": 7})", R"({"pad_token": {"content": 3}})", "[]"}) {
    std::ofstream(folder / "tokenizer_config.json") << config;
    try {
      Tokenizer::load(folder);
      ADD_FAILURE() << config << " was taken";
    } catch (const UsageError& error) {
      EXPECT_NE(std::string(error.what()).find("tokenizer_config.json"), std::string::npos) << error.what();
    }
  }
  std::filesystem::remove_all(folder);
}

TEST(Tokenizer, BringsBackAnyTextThroughABytelevelModel) {
  std::mt19937 random(1);
  for (const char* name : {"gpt2", "llama3", "deepseek3", "o200k"}) {
    const auto tokenizer = small(name);
    for (int i = 0; i < 300; ++i) {
      const std::string text = random_text(random, 60);
      EXPECT_EQ(tokenizer->decode(tokenizer->encode(text, false), false), text);
    }
  }
}

TEST(Tokenizer, MergesALongPieceAsItMergesAShortOne) {
  // Pieces of up to 40 symbols are merged by a scan, longer ones by a heap. A text without any place to cut
  // shows both: the ids of the whole equal those found by always joining the leftmost pair of lowest rank.
  auto file = small_file("gpt2");
  file["pre_tokenizer"] = {{"type", "ByteLevel"}, {"add_prefix_space", false}, {"use_regex", false}};
  const auto tokenizer = Tokenizer::parse(file.dump(), "test");
  std::map<std::pair<std::string, std::string>, size_t> ranks;
  for (const auto& merge : file["model"]["merges"]) ranks.try_emplace({merge[0], merge[1]}, ranks.size());
  std::mt19937 random(5);
  for (int i = 0; i < 60; ++i) {
    std::string text;
    for (size_t n = 1 + random() % 200; n > 0; --n) text += "aeinrstho "[random() % 9];
    std::vector<std::string> symbols;
    for (const char c : text) symbols.emplace_back(1, c);
    while (true) {
      size_t best = SIZE_MAX;
      size_t at = 0;
      for (size_t k = 0; k + 1 < symbols.size(); ++k) {
        const auto found = ranks.find({symbols[k], symbols[k + 1]});
        if (found != ranks.end() && found->second < best) best = found->second, at = k;
      }
      if (best == SIZE_MAX) break;
      symbols[at] += symbols[at + 1];
      symbols.erase(symbols.begin() + static_cast<ptrdiff_t>(at) + 1);
    }
    std::vector<int32_t> expected;
    for (const auto& symbol : symbols) expected.push_back(*tokenizer->id_of(symbol));
    EXPECT_EQ(tokenizer->encode(text, false), expected) << text;
  }
}

TEST(Tokenizer, AnswersSeveralThreadsAtOnce) {
  const auto tokenizer = small("llama3");
  std::mt19937 random(3);
  std::vector<std::string> texts;
  std::vector<std::vector<int32_t>> expected;
  for (int i = 0; i < 200; ++i) {
    texts.push_back(random_text(random, 80));
    expected.push_back(tokenizer->encode(texts.back(), true));
  }
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&, t] {
      for (size_t i = 0; i < texts.size(); ++i) {
        const size_t k = (i * 7 + static_cast<size_t>(t) * 31) % texts.size();
        EXPECT_EQ(tokenizer->encode(texts[k], true), expected[k]);
      }
    });
  }
  for (auto& thread : threads) thread.join();
}

TEST(Tokenizer, TakesLinearTimeOnTextsThatRepeat) {
  const auto tokenizer_names = {"gpt2", "llama2", "deepseek3", "nfd", "gemma", "beh_contiguous"};
  for (const char* name : tokenizer_names) {
    const auto tokenizer = small(name);
    for (const std::string unit : {"a", " ", "\n", "\U0001F999", "\u0301\u0316", "7", " \u2581"}) {
      std::string text;
      while (text.size() < 100'000) text += unit;
      const auto start = std::chrono::steady_clock::now();
      tokenizer->encode(text, false);
      const std::chrono::duration<double> took = std::chrono::steady_clock::now() - start;
      EXPECT_LT(took.count(), 8.0) << name << " '" << unit << "'";  // quadratic would be minutes
    }
  }
}

TEST(Tokenizer, NamesTheOffsetOfBytesThatAreNotUtf8) {
  const auto tokenizer = small("gpt2");
  const std::vector<std::pair<std::string, size_t>> cases{{"\xFF", 0},
                                                          {"abc\xC3", 3},
                                                          {"a\xC0\xAF", 1},
                                                          {"\xED\xA0\x80", 0},
                                                          {"0123456789\xF4\x90\x80\x80", 10},
                                                          {"\xE2\x82", 0}};
  for (const auto& [text, offset] : cases) {
    try {
      tokenizer->encode(text, false);
      ADD_FAILURE() << "accepted";
    } catch (const Error& error) {
      EXPECT_NE(std::string(error.what()).find("offset " + std::to_string(offset) + " "), std::string::npos)
          << error.what();
    }
  }
}

TEST(Tokenizer, NamesAComponentThatItDoesNotKnow) {
  for (const char* part : {"normalizer", "pre_tokenizer", "post_processor", "decoder", "model"}) {
    auto file = small_file("gpt2");
    file[part] = {{"type", "Fancy"}};
    EXPECT_NE(error_of(file).find("'Fancy' is not supported"), std::string::npos) << error_of(file);
  }
  auto file = small_file("gpt2");
  file["pre_tokenizer"] = {{"type", "Sequence"},
                           {"pretokenizers", {{{"type", "Digits"}}, {{"type", "Fancy"}}}}};
  EXPECT_NE(error_of(file).find("'Fancy'"), std::string::npos);
}

TEST(Tokenizer, NamesTheEntryOfAFileThatDoesNotFit) {
  const auto expect = [](auto change, const char* named) {
    auto file = small_file("gpt2");
    change(file);
    EXPECT_NE(error_of(file).find(named), std::string::npos) << error_of(file);
  };
  expect([](auto& f) { f["model"]["merges"][3] = {"zz", "qq"}; }, "model.merges[3] needs the token 'zzqq'");
  expect([](auto& f) { f["model"]["merges"][4] = "one two three"; }, "model.merges[4] must be");
  expect([](auto& f) { f["model"]["merges"][4] = 5; }, "model.merges[4] must be");
  expect([](auto& f) { f["model"]["vocab"]["x y"] = -1; }, "model.vocab['x y']");
  expect([](auto& f) { f["model"]["vocab"]["x y"] = 4'000'000'000U; }, "model.vocab['x y']");
  expect([](auto& f) { f["model"]["unk_token"] = "<none>"; }, "model.unk_token '<none>'");
  expect([](auto& f) { f["model"]["dropout"] = 0.5; }, "dropout");
  expect([](auto& f) { f["model"].erase("vocab"); }, "model.vocab");
  expect([](auto& f) { f["added_tokens"] = 7; }, "'added_tokens'");
  expect([](auto& f) { f["added_tokens"][0]["special"] = "yes"; }, "'special'");
  expect(
      [](auto& f) {
        f["pre_tokenizer"] = {{"type", "Split"}, {"pattern", {{"Regex", "("}}}, {"behavior", "Isolated"}};
      },
      "regular expression '('");
  expect(
      [](auto& f) {
        f["pre_tokenizer"] = {{"type", "Split"}, {"pattern", {{"String", ","}}}, {"behavior", "Odd"}};
      },
      "'Odd'");
  expect(
      [](auto& f) {
        f["post_processor"] = {{"type", "TemplateProcessing"},
                               {"single", {{{"SpecialToken", {{"id", "<s>"}}}}}},
                               {"special_tokens", {{"<s>", {{"ids", {99999}}}}}}};
      },
      "99999");
}

TEST(Tokenizer, NamesAFileThatIsMissingOrNoJson) {
  EXPECT_THROW(Tokenizer::load("/nonexistent/folder"), UsageError);
  EXPECT_THROW(Tokenizer::parse("{", "x"), UsageError);
  EXPECT_THROW(Tokenizer::parse("[]", "x"), UsageError);
}

TEST(Tokenizer, EndsAPatternThatBacktracksWithoutEnd) {
  auto file = small_file("gpt2");
  file["pre_tokenizer"] = {{"type", "Sequence"},
                           {"pretokenizers",
                            {{{"type", "Split"},
                              {"pattern", {{"Regex", "(?:(?:a|aa)+)+$(?<=b)"}}},
                              {"behavior", "Isolated"},
                              {"invert", false}},
                             {{"type", "ByteLevel"}, {"add_prefix_space", false}, {"use_regex", false}}}}};
  const auto tokenizer = Tokenizer::parse(file.dump(), "test");
  EXPECT_THROW(tokenizer->encode(std::string(200, 'a') + "c", false), Error);
  EXPECT_NO_THROW(tokenizer->encode("bbb", false));
}

TEST(Tokenizer, TakesMergesAsStringsAsWellAsPairs) {
  auto file = small_file("gpt2");
  for (auto& merge : file["model"]["merges"])
    merge = merge[0].get<std::string>() + " " + merge[1].get<std::string>();
  const std::string text = "Natalia sold clips to 48 of her friends.";
  EXPECT_EQ(Tokenizer::parse(file.dump(), "test")->encode(text, false), small("gpt2")->encode(text, false));
}

TEST(Tokenizer, KnowsItsSpecialTokens) {
  const auto folder =
      std::filesystem::temp_directory_path() / ("penstock_tokenizer_test_" + std::to_string(::getpid()));
  std::filesystem::create_directories(folder);
  std::ofstream(folder / "tokenizer.json") << small_file("llama2").dump();
  std::ofstream(folder / "tokenizer_config.json")
      << R"({"bos_token": {"content": "<s>"}, "eos_token": "</s>", "pad_token": null})";
  std::ofstream(folder / "special_tokens_map.json") << R"({"bos_token": "ignored", "unk_token": "<unk>"})";
  const auto tokenizer = Tokenizer::load(folder);
  std::filesystem::remove_all(folder);
  EXPECT_EQ(tokenizer->bos_id(), 1);
  EXPECT_EQ(tokenizer->eos_id(), 2);
  EXPECT_EQ(tokenizer->special_tokens().unk, "<unk>");
  EXPECT_EQ(tokenizer->special_tokens().pad, std::nullopt);
  EXPECT_TRUE(tokenizer->is_special(1));
  EXPECT_FALSE(tokenizer->is_special(300));
  EXPECT_EQ(tokenizer->token_of(1), "<s>");
  EXPECT_EQ(tokenizer->token_of(-1), std::nullopt);
  EXPECT_EQ(tokenizer->id_of("no such token"), std::nullopt);
}

}  // namespace
}  // namespace penstock
