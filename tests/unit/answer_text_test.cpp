// A sequence's text: where stop strings end it, and what of it is shown.
#include "runtime/requests/answer_text.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <random>

namespace penstock {
namespace {

const std::filesystem::path kModel = std::filesystem::path(PENSTOCK_SOURCE_DIR) / "tests/models/gsm-llama-18";

class AnswerText : public testing::Test {
 protected:
  std::vector<int32_t> ids(const std::string& text) const { return tokenizer_->encode(text, false); }

  /// The answer to a row whose model generated `text`'s tokens, ended by a stop string as soon as one is
  /// there.
  Choice answered(const SamplingFields& fields, std::vector<int32_t> tokens, std::vector<int32_t> ends = {}) {
    Answer answer;
    answer.fields = fields;
    answer.end_tokens = std::move(ends);
    SequenceText text(tokenizer_, fields);
    Choice choice;
    for (const int32_t id : tokens) {
      choice.sequence.tokens.push_back({id, 0, {}});
      const bool by_token =
          std::find(answer.end_tokens.begin(), answer.end_tokens.end(), id) != answer.end_tokens.end();
      if (by_token || text.push(id)) {
        choice.sequence.reason = FinishReason::stop;
        break;
      }
    }
    answer.choices = {choice};
    fill_texts(answer, tokenizer_);
    return answer.choices[0];
  }

  std::shared_ptr<const Tokenizer> tokenizer_ = Tokenizer::load(kModel);
};

TEST_F(AnswerText, EndsAtAStopStringAcrossTokens) {
  SamplingFields fields;
  fields.stop = {"zzz", "has 3 ap"};
  const auto tokens = ids("Tom has 3 apples and more");
  const Choice choice = answered(fields, tokens);
  EXPECT_EQ(choice.text, "Tom ");
  EXPECT_EQ(choice.stop_string, "has 3 ap");
  EXPECT_FALSE(choice.stop_reason);
  EXPECT_LT(choice.sequence.tokens.size(), tokens.size())
      << "the sequence ends with the token that completes it";
  fields.include_stop_str_in_output = true;
  EXPECT_EQ(answered(fields, tokens).text, "Tom has 3 ap");
}

TEST_F(AnswerText, AStopStringCountsOnlyAfterMinTokensButMayBeginBefore) {
  SamplingFields fields;
  fields.stop = {"a"};
  fields.min_tokens = 3;
  std::vector<int32_t> tokens;
  for (int i = 0; i < 5; ++i) tokens.push_back(ids("a")[0]);
  EXPECT_EQ(answered(fields, tokens).text, "aaa");
  EXPECT_EQ(answered(fields, tokens).sequence.tokens.size(), 4U);
  fields.stop = {"aa"};
  EXPECT_EQ(answered(fields, tokens).text, "aa");
  EXPECT_EQ(answered(fields, tokens).sequence.tokens.size(), 4U);
}

TEST_F(AnswerText, AStopTokenIsLeftOutUnlessTheRowIncludesIt) {
  SamplingFields fields;
  const int32_t full_stop = ids(".")[0];
  fields.stop_token_ids = {full_stop};
  auto tokens = ids("ab");
  tokens.push_back(full_stop);
  Choice choice = answered(fields, tokens, {full_stop});
  EXPECT_EQ(choice.text, "ab");
  EXPECT_EQ(choice.stop_reason, full_stop);
  fields.include_stop_str_in_output = true;
  EXPECT_EQ(answered(fields, tokens, {full_stop}).text, "ab.");
}

TEST_F(AnswerText, SpecialTokensAreSkippedUnlessTheRowKeepsThem) {
  SamplingFields fields;
  auto tokens = ids("ab");
  tokens.push_back(*tokenizer_->bos_id());
  EXPECT_EQ(answered(fields, tokens).text, "ab");
  fields.skip_special_tokens = false;
  EXPECT_EQ(answered(fields, tokens).text, "ab<｜begin▁of▁sentence｜>");
}

TEST_F(AnswerText, OneLookAtATimeFindsWhatTheWholeTextHolds) {
  std::mt19937 random(3);
  for (int i = 0; i < 300; ++i) {
    std::vector<int32_t> tokens;
    for (size_t n = 1 + random() % 30; n > 0; --n)
      tokens.push_back(static_cast<int32_t>(random() % tokenizer_->vocab_size()));
    const std::string whole = tokenizer_->decode(tokens, true);
    SamplingFields fields;
    const size_t at = whole.empty() ? 0 : random() % whole.size();
    fields.stop = {whole.substr(at, 1 + random() % 4)};
    if (fields.stop[0].empty()) continue;
    const Choice choice = answered(fields, tokens);
    if (choice.stop_string) {
      EXPECT_EQ(choice.text, whole.substr(0, whole.find(fields.stop[0])));
    } else {
      EXPECT_EQ(choice.text, whole);  // a half character that the end completes is not searched, as in vLLM
    }
  }
}

/// Arbitrary valid UTF-8 comes back whole from a byte-level tokenizer.
TEST_F(AnswerText, ArbitraryTextMakesTheRoundTrip) {
  std::mt19937 random(11);
  for (int i = 0; i < 2000; ++i) {
    std::string text;
    for (size_t n = random() % 40; n > 0; --n) {
      char32_t c = 0;
      do {
        const char32_t bounds[] = {0x80, 0x800, 0x10000, 0x110000};
        c = random() % bounds[random() % 4];
      } while (c >= 0xD800 && c < 0xE000);
      if (c < 0x80) {
        text += static_cast<char>(c);
      } else if (c < 0x800) {
        text += {static_cast<char>(0xC0 | c >> 6), static_cast<char>(0x80 | (c & 0x3F))};
      } else if (c < 0x10000) {
        text += {static_cast<char>(0xE0 | c >> 12), static_cast<char>(0x80 | (c >> 6 & 0x3F)),
                 static_cast<char>(0x80 | (c & 0x3F))};
      } else {
        text += {static_cast<char>(0xF0 | c >> 18), static_cast<char>(0x80 | (c >> 12 & 0x3F)),
                 static_cast<char>(0x80 | (c >> 6 & 0x3F)), static_cast<char>(0x80 | (c & 0x3F))};
      }
    }
    const auto tokens = tokenizer_->encode(text, false);
    ASSERT_EQ(tokenizer_->decode(tokens, false), text);
    ASSERT_EQ(answered({}, tokens).text, text);
  }
}

}  // namespace
}  // namespace penstock
