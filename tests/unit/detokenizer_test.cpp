// Text that comes out id by id must be the text of all ids at once.
#include <gtest/gtest.h>

#include "runtime/requests/text/tokenizer.h"
#include "tests/unit/text_data.h"

namespace penstock {
namespace {

std::string streamed(const std::shared_ptr<const Tokenizer>& tokenizer, const std::vector<int32_t>& ids,
                     DetokenizeOptions options) {
  Detokenizer stream(tokenizer, options);
  std::string out;
  for (const int32_t id : ids) {
    const std::string part = stream.push(id);
    EXPECT_FALSE(utf8::first_invalid(part)) << "half a character came out";
    out += part;
  }
  return out + stream.flush();
}

TEST(Detokenizer, JoinsToTheTextOfDecodingAtOnce) {
  std::mt19937 random(2);
  for (const auto& folder : testing_data::folders_in(testing_data::data_folder() / "tokenizers")) {
    const auto tokenizer = Tokenizer::load(folder);
    for (int i = 0; i < 200; ++i) {
      std::vector<int32_t> ids(random() % 40);
      for (int32_t& id : ids) {
        // Low ids are bytes and special tokens: the ones that are hard.
        const size_t bound = random() % 2 == 0 ? 300 : tokenizer->vocab_size() + 3;
        id = static_cast<int32_t>(random() % bound);
      }
      for (const bool skip : {false, true}) {
        EXPECT_EQ(streamed(tokenizer, ids, {skip, true}), tokenizer->decode(ids, skip)) << folder;
      }
    }
  }
}

TEST(Detokenizer, GivesTextOutAsSoonAsNothingCanChangeIt) {
  const auto tokenizer = Tokenizer::load(testing_data::data_folder() / "tokenizers" / "gpt2");
  Detokenizer stream(tokenizer, {});
  EXPECT_EQ(stream.push(*tokenizer->id_of("a")), "a");
  EXPECT_EQ(stream.push(*tokenizer->id_of("\u00c3")), "");  // the byte C3
  EXPECT_EQ(stream.push(*tokenizer->id_of("\u00a9")), "\u00e9");
  EXPECT_EQ(stream.push(*tokenizer->id_of("\u00c3")), "");
  EXPECT_EQ(stream.push(*tokenizer->id_of("b")), "\uFFFDb");
  EXPECT_EQ(stream.push(*tokenizer->id_of("\u00c3")), "");
  EXPECT_EQ(stream.flush(), "\uFFFD");
}

TEST(Detokenizer, HoldsARunOfByteTokensUntilItEnds) {
  const auto tokenizer = Tokenizer::load(testing_data::data_folder() / "tokenizers" / "llama2");
  const auto id = [&](const char* token) { return *tokenizer->id_of(token); };
  Detokenizer good(tokenizer, {});
  EXPECT_EQ(good.push(id("<0xC3>")), "");
  EXPECT_EQ(good.push(id("<0xA9>")), "");
  EXPECT_EQ(good.push(id("a")), "\u00e9a");
  Detokenizer bad(tokenizer, {});
  EXPECT_EQ(bad.push(id("<0xC3>")), "");
  EXPECT_EQ(bad.push(id("<0xA9>")), "");
  EXPECT_EQ(bad.push(id("<0xFF>")), "");
  EXPECT_EQ(bad.push(id("a")), "\uFFFD\uFFFD\uFFFDa");  // one each, as the whole run is not UTF-8
}

TEST(Detokenizer, LeavesSpecialTokensOutOnRequest) {
  const auto tokenizer = Tokenizer::load(testing_data::data_folder() / "tokenizers" / "qwen2");
  const std::vector<int32_t> ids = tokenizer->encode("<|im_start|>user<tool_call>", false);
  EXPECT_EQ(streamed(tokenizer, ids, {true, true}), "user<tool_call>");
  EXPECT_EQ(streamed(tokenizer, ids, {false, true}), "<|im_start|>user<tool_call>");
}

TEST(Detokenizer, JoinsNeighbouringAddedTokensWithoutSpacesOnRequest) {
  // Only a tokenizer without a decoder puts spaces between tokens.
  const auto tokenizer = Tokenizer::load(testing_data::data_folder() / "tokenizers" / "nfkc");
  const int32_t unk = *tokenizer->id_of("<unk>");
  const int32_t a = *tokenizer->id_of("a");
  EXPECT_EQ(streamed(tokenizer, {unk, unk, a, a}, {false, true}), "<unk> <unk> a a");
  EXPECT_EQ(streamed(tokenizer, {unk, unk, a, a}, {false, false}), "<unk><unk> a a");
}

}  // namespace
}  // namespace penstock
