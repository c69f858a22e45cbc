// What a row may ask, field by field: read, refused with its range, defaulted as vLLM does.
#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>

#include "runtime/base/error.h"
#include "runtime/requests/answer.h"
#include "runtime/requests/chat_messages.h"

namespace penstock {
namespace {

using Json = nlohmann::ordered_json;

std::string completion(const std::string& fields) {
  return R"({"custom_id": "a", "url": "/v1/completions", "body": {"prompt": "p", )" + fields + "}}";
}
std::string chat(const std::string& fields) {
  return R"({"custom_id": "a", "url": "/v1/chat/completions", "body": {)" + fields + "}}";
}
const std::string kMessages = R"("messages": [{"role": "user", "content": "hi"}])";

Request accepted(const std::string& line, const RequestLimits& limits = {}) {
  const auto result = parse_batch_line(line, limits);
  if (const auto* error = std::get_if<RowError>(&result)) {
    ADD_FAILURE() << error->message;
    return {};
  }
  return std::get<Request>(result);
}

std::string rejected(const std::string& line) {
  const auto result = parse_batch_line(line, {});
  const auto* error = std::get_if<RowError>(&result);
  return error != nullptr ? error->message : "accepted";
}

TEST(RowFields, EverySamplingFieldIsRead) {
  const SamplingFields s =
      accepted(completion(
                   R"("presence_penalty": -1.5, "frequency_penalty": 0.5, "repetition_penalty": 1.25,
                      "logit_bias": {"7": -200, "3": 1.5}, "allowed_token_ids": [3, 7], "bad_words": ["x y"],
                      "max_tokens": 20, "min_tokens": 4, "stop": ["a", "b"], "include_stop_str_in_output": true,
                      "prompt_logprobs": 3, "skip_special_tokens": false, "spaces_between_special_tokens": false)"))
          .sampling;
  EXPECT_EQ(s.presence_penalty, -1.5F);
  EXPECT_EQ(s.frequency_penalty, 0.5F);
  EXPECT_EQ(s.repetition_penalty, 1.25F);
  EXPECT_EQ(s.logit_bias, (std::vector<std::pair<int32_t, float>>{{3, 1.5F}, {7, -100.0F}}));
  EXPECT_EQ(s.allowed_token_ids, (std::vector<int32_t>{3, 7}));
  EXPECT_EQ(s.bad_words, std::vector<std::string>{"x y"});
  EXPECT_EQ(s.min_tokens, 4);
  EXPECT_EQ(s.stop, (std::vector<std::string>{"a", "b"}));
  EXPECT_TRUE(s.include_stop_str_in_output);
  EXPECT_EQ(s.prompt_logprobs, 3);
  EXPECT_FALSE(s.skip_special_tokens);
  EXPECT_FALSE(s.spaces_between_special_tokens);
  EXPECT_EQ(accepted(completion(R"("stop": "one")")).sampling.stop, std::vector<std::string>{"one"});
}

TEST(RowFields, ABadValueNamesTheFieldItsRangeAndItself) {
  const std::pair<std::string, const char*> cases[] = {
      {completion(R"("presence_penalty": 2.5)"),
       "presence_penalty: expected a number from -2 to 2, found 2.5"},
      {completion(R"("frequency_penalty": -3)"),
       "frequency_penalty: expected a number from -2 to 2, found -3"},
      {completion(R"("repetition_penalty": 0)"), "repetition_penalty: expected a number above 0"},
      {completion(R"("logit_bias": {"x": 1})"), "logit_bias: expected token ids as names, found \"x\""},
      {completion(R"("logit_bias": {"-1": 1})"), "logit_bias: expected token ids as names"},
      {completion(R"("logit_bias": {"1": "a"})"), "logit_bias: expected a number for each token id"},
      {completion(R"("logit_bias": {"1": 1, "01": 2})"), "logit_bias: expected each token id once"},
      {completion(R"("allowed_token_ids": [])"), "allowed_token_ids: expected at least one token id"},
      {completion(R"("bad_words": [""])"), "bad_words: expected a list of strings, none empty"},
      {completion(R"("stop": [""])"), "stop: expected a list of strings, none empty"},
      {completion(R"("stop": 5)"), "stop: expected a list of strings"},
      {completion(R"("min_tokens": 9, "max_tokens": 8)"),
       "min_tokens: expected at most max_tokens, 8, found 9"},
      {completion(R"("min_tokens": -1)"), "min_tokens: expected a whole number from 0"},
      {completion(R"("prompt_logprobs": 21)"),
       "prompt_logprobs: expected a whole number from 0 to 20, found 21"},
      {completion(R"("best_of": 2)"), "best_of: expected none"},
      {completion(R"("messages": [])"), "messages: this field is not supported"},
      {chat(R"("prompt": "a", )" + kMessages), "prompt: this field is not supported"},
      {chat(R"("model": "m")"), "messages: expected a list of messages, found none"},
      {chat(R"("messages": [])"), "messages: expected a list of messages"},
      {chat(R"("messages": [{"content": "x"}])"), "messages: expected a list of messages, each an object"},
      {chat(R"("messages": ["x"])"), "messages: expected a list of messages, each an object"},
      {chat(kMessages + R"(, "top_logprobs": 2)"), "top_logprobs: expected logprobs to be true"},
      {chat(kMessages + R"(, "logprobs": 2)"), "logprobs: expected true or false, found 2"},
      {chat(kMessages + R"(, "logprobs": true, "top_logprobs": 21)"),
       "top_logprobs: expected a whole number"},
      {chat(kMessages + R"(, "tools": [1])"), "tools: expected a list of objects, found 1"},
      {chat(kMessages + R"(, "tool_choice": "required")"), "tool_choice: expected \"none\" or \"auto\""},
      {chat(kMessages + R"(, "response_format": {"type": "json_object"})"), "response_format: expected"},
      {chat(kMessages + R"(, "chat_template_kwargs": [])"), "chat_template_kwargs: expected an object"},
      {chat(kMessages + R"(, "continue_final_message": true)"), "continue_final_message: expected"},
      {chat(kMessages + R"(, "max_completion_tokens": 0)"), "max_tokens: expected a whole number from 1"}};
  for (const auto& [line, message] : cases)
    EXPECT_NE(rejected(line).find(message), std::string::npos) << line << "\n  " << rejected(line);
}

TEST(RowFields, OnlyAnEchoedCompletionMayGenerateNothing) {
  EXPECT_EQ(accepted(completion(R"("max_tokens": 0, "echo": true)")).sampling.max_tokens, 0);
  EXPECT_NE(rejected(completion(R"("max_tokens": 0)")).find("0 only for a completion with echo"),
            std::string::npos);
}

TEST(RowFields, AnEchoWithLogprobsAsksForThePromptsToo) {
  EXPECT_EQ(accepted(completion(R"("echo": true, "logprobs": 2)")).sampling.prompt_logprobs, 2);
  EXPECT_FALSE(accepted(completion(R"("logprobs": 2)")).sampling.prompt_logprobs);
}

TEST(RowFields, AChatIsReadWithItsDefaults) {
  const Request plain = accepted(chat(kMessages));
  ASSERT_TRUE(plain.chat);
  EXPECT_TRUE(plain.chat->options.add_generation_prompt);
  EXPECT_EQ(plain.sampling.max_tokens, kRestOfContext);
  EXPECT_FALSE(plain.sampling.add_special_tokens) << "the template has the BOS already";
  EXPECT_FALSE(plain.sampling.logprobs);

  const Request full = accepted(
      chat(kMessages +
           R"(, "tools": [{"z": 1, "a": 2}], "chat_template_kwargs": {"k": 1}, "add_generation_prompt": false,
          "continue_final_message": true, "max_completion_tokens": 9, "logprobs": true, "top_logprobs": 4)"));
  EXPECT_EQ(full.chat->tools->dump(), R"([{"z":1,"a":2}])") << "keys keep their order";
  EXPECT_EQ((*full.chat->kwargs)["k"], 1);
  EXPECT_TRUE(full.chat->options.continue_final_message);
  EXPECT_EQ(full.sampling.max_tokens, 9);
  EXPECT_EQ(full.sampling.logprobs, 4);
  EXPECT_EQ(accepted(chat(kMessages + R"(, "logprobs": true)")).sampling.logprobs, 0);
}

class GenerationConfig : public testing::Test {
 protected:
  void SetUp() override {
    std::string pattern = (std::filesystem::temp_directory_path() / "penstock-test-XXXXXX").string();
    folder_ = mkdtemp(pattern.data());
  }
  void TearDown() override { std::filesystem::remove_all(folder_); }
  void write(const std::string& text) const { std::ofstream(folder_ / "generation_config.json") << text; }
  std::filesystem::path folder_;
};

TEST_F(GenerationConfig, GivesRowsTheirDefaultsUnlessVllmsOwnAreAskedFor) {
  write(R"({"temperature": 0.6, "top_k": 20, "top_p": 0.95, "repetition_penalty": 1.05, "max_new_tokens": 99,
            "eos_token_id": [1, 2], "do_sample": true, "min_p": null})");
  RequestLimits limits;
  limits.defaults = load_generation_defaults("auto", folder_);
  EXPECT_EQ(limits.defaults.most_new_tokens, 99);
  const SamplingFields s = accepted(completion(R"("top_k": 5)"), limits).sampling;
  EXPECT_EQ(s.temperature, 0.6F);
  EXPECT_EQ(s.top_k, 5) << "the row wins";
  EXPECT_EQ(s.top_p, 0.95F);
  EXPECT_EQ(s.repetition_penalty, 1.05F);
  EXPECT_EQ(load_generation_defaults("vllm", folder_).fields.temperature, 1);
  EXPECT_EQ(load_generation_defaults(folder_, "elsewhere").fields.temperature, 0.6F);
}

TEST_F(GenerationConfig, IsOptionalInAModelsFolderOnly) {
  EXPECT_EQ(load_generation_defaults("auto", folder_).fields.temperature, 1);
  EXPECT_THROW(load_generation_defaults(folder_, "elsewhere"), UsageError);
}

TEST_F(GenerationConfig, ABadValueStopsTheJobWithTheFileAndTheRange) {
  write(R"({"top_p": 1.5})");
  try {
    load_generation_defaults("auto", folder_);
    FAIL();
  } catch (const UsageError& e) {
    EXPECT_NE(std::string(e.what()).find("generation_config.json: top_p: expected a number above 0"),
              std::string::npos)
        << e.what();
  }
}

TEST(ChatMessages, PartsBecomeOneTextUnlessTheTemplateWalksThem) {
  const Json messages = Json::parse(
      R"([{"role": "user", "content": [{"type": "text", "text": "a"}, "b", {"type": "input_text", "text": "c"}]}])");
  EXPECT_EQ(prepared_messages(messages, false)[0]["content"], "a\nb\nc");
  EXPECT_EQ(prepared_messages(messages, true)[0]["content"][2].dump(), R"({"type":"text","text":"c"})");
}

TEST(ChatMessages, ArgumentsOfAToolCallAreRead) {
  const Json messages = Json::parse(
      R"([{"role": "assistant", "content": null, "tool_calls": [
          {"function": {"name": "f", "arguments": "{\"x\": [1]}"}}, {"function": {"name": "g"}}]}])");
  const Json calls = prepared_messages(messages, false)[0]["tool_calls"];
  EXPECT_EQ(calls[0]["function"]["arguments"]["x"][0], 1);
  EXPECT_EQ(calls[1]["function"]["arguments"], Json::object());
}

TEST(ChatMessages, WhatIsNoTextIsNamedWithItsMessage) {
  for (const char* bad :
       {R"([{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}])",
        R"([{"role": "user", "content": {"type": "text"}}])", R"([{"role": "user", "content": 7}])",
        R"([{"role": "assistant", "tool_calls": [{"function": {"arguments": "{"}}]}])"}) {
    try {
      prepared_messages(Json::parse(bad), false);
      ADD_FAILURE() << bad;
    } catch (const Error& e) {
      EXPECT_NE(std::string(e.what()).find("messages[0]"), std::string::npos) << e.what();
    }
  }
}

class TemplateParts : public GenerationConfig {
 protected:
  bool takes_parts(const std::string& source) const {
    std::ofstream(folder_ / "t.jinja") << source;
    return template_takes_parts(*ChatRenderer::load(folder_, folder_ / "t.jinja"));
  }
};

TEST_F(TemplateParts, AreFoundByRenderingOne) {
  EXPECT_TRUE(
      takes_parts("{% for m in messages %}{% for p in m.content %}{{ p.text }}{% endfor %}{% endfor %}"));
  EXPECT_FALSE(takes_parts("{% for m in messages %}{{ '<|u|>' + m['content'] }}{% endfor %}"));
  EXPECT_FALSE(takes_parts("{% for m in messages %}{{ m['content'] }}{% endfor %}"));
  EXPECT_FALSE(takes_parts("{% for m in messages %}{{ m['content'] | tojson }}{% endfor %}"));
}

Answer chat_answer(const std::string& text) {
  Answer answer;
  answer.custom_id = "x";
  answer.chat = ChatAnswer{"assistant", "", false, true};
  Choice choice;
  choice.text = text;
  choice.sequence.tokens = {{7, -0.5F, {{7, -0.5F}, {9, -2.0F}}}};
  choice.sequence.reason = FinishReason::stop;
  choice.stop_string = "END";
  choice.token_texts = {{"\xC3\xA9", {"\xC3\xA9", "b"}}};
  answer.choices = {choice};
  return answer;
}

TEST(ChatAnswer, HasOpenAIsShape) {
  Answer answer = chat_answer("hi");
  answer.fields.logprobs = 2;
  answer.fields.return_token_ids = true;
  answer.prompt_token_ids = {{1, 2}};
  const Json body = Json::parse(format_answer(answer))["response"]["body"];
  EXPECT_EQ(body["object"], "chat.completion");
  EXPECT_EQ(body["prompt_token_ids"].dump(), "[1,2]");
  const Json& choice = body["choices"][0];
  EXPECT_EQ(choice["message"].dump(), R"({"role":"assistant","content":"hi"})");
  EXPECT_EQ(choice["finish_reason"], "stop");
  EXPECT_EQ(choice["stop_reason"], "END");
  EXPECT_EQ(choice["token_ids"].dump(), "[7]");
  const Json& token = choice["logprobs"]["content"][0];
  EXPECT_EQ(token["token"], "\xC3\xA9");
  EXPECT_EQ(token["bytes"].dump(), "[195,169]");
  EXPECT_EQ(token["top_logprobs"][1]["logprob"], -2.0);
}

TEST(ChatAnswer, ReasoningIsSplitOffOnRequest) {
  const auto message = [](const std::string& text) {
    Answer answer = chat_answer(text);
    answer.chat->splits_reasoning = true;
    return Json::parse(format_answer(answer))["response"]["body"]["choices"][0]["message"];
  };
  EXPECT_EQ(message("<think>why</think>so")["reasoning_content"], "why");
  EXPECT_EQ(message("<think>why</think>so")["content"], "so");
  EXPECT_EQ(message("why</think>so")["reasoning_content"], "why") << "the template may have opened it";
  EXPECT_EQ(message("still thinking")["reasoning_content"], "still thinking");
  EXPECT_TRUE(message("still thinking")["content"].is_null());
  EXPECT_TRUE(message("why</think>")["content"].is_null());
  Answer hidden = chat_answer("why</think>so");
  hidden.chat->splits_reasoning = true;
  hidden.chat->include_reasoning = false;
  EXPECT_EQ(Json::parse(format_answer(hidden))["response"]["body"]["choices"][0]["message"].dump(),
            R"({"role":"assistant","reasoning_content":null,"content":"so"})");
}

TEST(CompletionAnswer, AnEchoPutsThePromptBeforeTheTextAndItsLogprobs) {
  Answer answer = chat_answer("!");
  answer.chat.reset();
  answer.fields.logprobs = 1;
  answer.fields.prompt_logprobs = 1;
  answer.fields.echo = true;
  Choice& choice = answer.choices[0];
  choice.echoed = "ab";
  choice.first_prompt_text = "a";
  choice.sequence.prompt = {{4, -3.0F, {{6, -1.0F}}, 5}};
  choice.prompt_texts = {{"b", {"c"}}};
  const Json got = Json::parse(format_answer(answer))["response"]["body"]["choices"][0];
  EXPECT_EQ(got["text"], "ab!");
  EXPECT_EQ(got["logprobs"]["tokens"].dump(), "[\"a\",\"b\",\"\xC3\xA9\"]");
  EXPECT_EQ(got["logprobs"]["token_logprobs"].dump(), "[null,-3.0,-0.5]");
  EXPECT_EQ(got["logprobs"]["text_offset"].dump(), "[0,1,2]");
  EXPECT_EQ(got["prompt_logprobs"].dump(), R"([null,{"4":{"logprob":-3.0,"rank":5,"decoded_token":"b"},)"
                                           R"("6":{"logprob":-1.0,"rank":1,"decoded_token":"c"}}])");
}

}  // namespace
}  // namespace penstock
