#include "runtime/requests/text/tokenize_protocol.h"

#include <gtest/gtest.h>

#include "runtime/requests/text/chat_template.h"
#include "tests/unit/text_data.h"

namespace penstock {
namespace {

using nlohmann::json;

json answer(const std::string& line) {
  const auto folder = testing_data::data_folder() / "tokenizers" / "llama2";
  const auto path =
      std::filesystem::temp_directory_path() / ("penstock_protocol_" + std::to_string(::getpid()));
  std::ofstream(path) << "{{ messages[0].content }}{{ tools is defined }}{{ extra }}";
  const TokenizeProtocol protocol(Tokenizer::load(folder), ChatRenderer::load(folder, path));
  std::filesystem::remove(path);
  const std::string text = protocol.answer(line);
  EXPECT_EQ(text.find('\n'), std::string::npos);
  for (const char c : text) EXPECT_LT(static_cast<unsigned char>(c), 0x80);
  return json::parse(text);
}

TEST(TokenizeProtocol, AnswersTextIdsAndMessages) {
  const json plain = answer(R"({"text": "hello", "add_special_tokens": false})")["ids"];
  const json special = answer(R"({"text": "hello", "add_special_tokens": true})")["ids"];
  EXPECT_EQ(special.size(), plain.size() + 1);
  EXPECT_EQ(special[0], 1);
  EXPECT_EQ(answer(json{{"ids", special}, {"skip_special_tokens", true}}.dump())["text"], "hello");
  EXPECT_EQ(answer(json{{"ids", special}, {"skip_special_tokens", false}}.dump())["text"], "<s> hello");
  EXPECT_EQ(
      answer(R"({"messages": [{"content": "\u2028"}], "chat_template_kwargs": {"extra": 5}})")["rendered"],
      "\u2028False5");
}

TEST(TokenizeProtocol, AnswersALineThatCannotBeAnsweredByAnError) {
  for (const char* line : {"", "{", "[]", "{}", R"({"text": 5})", R"({"ids": "x"})", R"({"ids": [-1]})",
                           R"({"ids": [99999999999]})", R"({"text": "x", "add_special_tokens": 1})",
                           R"({"messages": []})", R"({"messages": [], "chat_template_kwargs": 3})"}) {
    EXPECT_TRUE(answer(line).contains("error")) << line;
  }
}

}  // namespace
}  // namespace penstock
