#include "runtime/requests/request.h"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "runtime/requests/answer.h"

namespace penstock {
namespace {

using Json = nlohmann::json;

std::string line(const std::string& fields) {
  return R"({"custom_id": "a", "method": "POST", "url": "/v1/completions", "body": {)" + fields + "}}";
}

Request accepted(const std::string& text) {
  const auto result = parse_batch_line(text, {});
  if (const auto* error = std::get_if<RowError>(&result)) {
    ADD_FAILURE() << error->message;
    return {};
  }
  return std::get<Request>(result);
}

std::string rejected(const std::string& text, const RequestLimits& limits = {}) {
  const auto result = parse_batch_line(text, limits);
  const auto* error = std::get_if<RowError>(&result);
  return error != nullptr ? error->message : "accepted";
}

TEST(Request, DefaultsAreVllms) {
  const Request r = accepted(line(R"("prompt": "hi")"));
  EXPECT_EQ(r.sampling.max_tokens, 16);
  EXPECT_EQ(r.sampling.temperature, 1);
  EXPECT_EQ(r.sampling.top_p, 1);
  EXPECT_EQ(r.sampling.n, 1);
  EXPECT_TRUE(r.sampling.add_special_tokens);
  EXPECT_FALSE(r.sampling.logprobs.has_value());
}

TEST(Request, PromptMayBeTextOrIdsOrAListOfEither) {
  EXPECT_EQ(std::get<std::string>(accepted(line(R"("prompt": "hi")")).prompts.at(0)), "hi");
  EXPECT_EQ(std::get<1>(accepted(line(R"("prompt": [1, 2, 3])")).prompts.at(0)),
            (std::vector<int32_t>{1, 2, 3}));
  EXPECT_EQ(accepted(line(R"("prompt": ["a", "b", "c"])")).prompts.size(), 3U);
  const Request ids = accepted(line(R"("prompt": [[1], [2, 3]])"));
  EXPECT_EQ(std::get<1>(ids.prompts.at(1)), (std::vector<int32_t>{2, 3}));
}

TEST(Request, EveryFieldIsRead) {
  const Request r = accepted(line(
      R"("prompt": [5], "model": "m", "n": 3, "temperature": 0.5, "top_p": 0.9, "top_k": 40, "min_p": 0.1, "seed": -7,
         "max_tokens": 99, "ignore_eos": true, "stop_token_ids": [4, 5], "logprobs": 2, "return_token_ids": true,
         "add_special_tokens": false, "stream": false, "user": "u")"));
  EXPECT_EQ(r.model, "m");
  EXPECT_EQ(r.sampling.n, 3);
  EXPECT_EQ(r.sampling.temperature, 0.5F);
  EXPECT_EQ(r.sampling.top_p, 0.9F);
  EXPECT_EQ(r.sampling.top_k, 40);
  EXPECT_EQ(r.sampling.min_p, 0.1F);
  EXPECT_EQ(r.sampling.seed, -7);
  EXPECT_EQ(r.sampling.max_tokens, 99);
  EXPECT_TRUE(r.sampling.ignore_eos);
  EXPECT_EQ(r.sampling.stop_token_ids, (std::vector<int32_t>{4, 5}));
  EXPECT_EQ(r.sampling.logprobs, 2);
  EXPECT_TRUE(r.sampling.return_token_ids);
  EXPECT_FALSE(r.sampling.add_special_tokens);
}

TEST(Request, ABadFieldNamesItselfWhatWasExpectedAndWhatWasFound) {
  const std::pair<const char*, const char*> cases[] = {
      {R"("prompt": "a", "temperature": -1)", "temperature: expected a number from 0 to 100, found -1"},
      {R"("prompt": "a", "top_p": 0)", "top_p: expected a number above 0 and at most 1, found 0"},
      {R"("prompt": "a", "n": 0)", "n: expected a whole number from 1 to 1024, found 0"},
      {R"("prompt": "a", "n": 1.5)", "n: expected a whole number from 1 to 1024, found 1.5"},
      {R"("prompt": "a", "max_tokens": 0)",
       "max_tokens: expected a whole number from 1 (0 only for a completion with echo), found 0"},
      {R"("prompt": "a", "seed": 99999999999999999999)", "seed: expected a whole number"},
      {R"("prompt": "a", "seed": 18446744073709551615)", "seed: expected a whole number"},
      {R"("prompt": "a", "logprobs": 21)", "logprobs: expected a whole number from 0 to 20, found 21"},
      {R"("prompt": "a", "ignore_eos": 1)", "ignore_eos: expected true or false, found 1"},
      {R"("prompt": [])", "prompt: expected a string"},
      {R"("prompt": [1, "a"])", "prompt: expected a whole number"},
      {R"("prompt": ["a", [1]])", "prompt: expected a string"},
      {R"("prompt": [[1], []])", "prompt: expected a string"},
      {R"("prompt": [-1])", "prompt: expected a whole number from 0"},
      {R"("prompt": {"a": 1})", "prompt: expected a string"},
      {R"("prompt": null)", "prompt: expected a string"},
      {R"("model": "m")", "prompt: expected a prompt, found none"},
      {R"("prompt": "a", "best_of": 2)", "best_of: expected none"},
      {R"("prompt": "a", "stream": true)", "stream: expected false"},
      {R"("prompt": ["a", "b"], "n": 1000)", "at most 1024 choices a row, found 2 prompts x n = 1000"}};
  for (const auto& [fields, message] : cases)
    EXPECT_NE(rejected(line(fields)).find(message), std::string::npos)
        << fields << "\n  " << rejected(line(fields));
}

TEST(Request, ABadLineIsARowsError) {
  EXPECT_NE(rejected("{").find("not valid JSON"), std::string::npos);
  EXPECT_NE(rejected("[1]").find("expected a JSON object"), std::string::npos);
  EXPECT_NE(rejected("{}").find("custom_id: expected a string, found none"), std::string::npos);
  EXPECT_NE(rejected(R"({"custom_id": 7})").find("custom_id: expected a string, found 7"), std::string::npos);
  EXPECT_NE(rejected(R"({"custom_id": "a"})").find("url: expected"), std::string::npos);
  EXPECT_NE(
      rejected(R"({"custom_id": "a", "url": "/v1/embeddings", "body": {}})").find("found \"/v1/embeddings\""),
      std::string::npos);
  EXPECT_NE(rejected(line("\"prompt\": \"\xff\"")).find("UTF-8"), std::string::npos);
  EXPECT_NE(rejected(std::string(1000000, '[')).find("not valid JSON"), std::string::npos);
  EXPECT_NE(rejected(std::string(1000, '[') + std::string(1000, ']')).find("nested deeper"),
            std::string::npos);
}

TEST(Request, ARowForAnotherModelIsAnErrorOnlyWhenANameIsServed) {
  RequestLimits limits;
  EXPECT_EQ(rejected(line(R"("prompt": "a", "model": "m")"), limits), "accepted");
  limits.served_model_name = "served";
  EXPECT_NE(rejected(line(R"("prompt": "a", "model": "m")"), limits).find("'served'"), std::string::npos);
}

TEST(Answer, LogprobsReadBackToTheSameFloat) {
  Answer answer;
  answer.custom_id = "x";
  answer.fields.logprobs = 1;
  answer.fields.return_token_ids = true;
  Choice choice;
  const float logprob = -0.1234567F;
  choice.sequence.tokens = {{7, logprob, {{7, logprob}, {9, -3.0000002F}}}};
  choice.token_texts = {{"a", {"a", "b"}}};
  answer.choices = {choice};
  answer.prompt_token_ids = {{1, 2}};
  const Json json = Json::parse(format_answer(answer));
  const Json& got = json["response"]["body"]["choices"][0];
  EXPECT_EQ(got["logprobs"]["token_logprobs"][0].get<float>(), logprob);
  EXPECT_EQ(got["logprobs"]["top_logprobs"][0]["b"].get<float>(), -3.0000002F);
  EXPECT_EQ(got["token_ids"], Json({7}));
  EXPECT_EQ(got["prompt_token_ids"], Json({1, 2}));
  EXPECT_EQ(got["finish_reason"], "length");
}

TEST(Answer, ANumberThatJsonLacksBecomesNull) {
  Answer answer;
  answer.fields.logprobs = 1;
  Choice choice;
  choice.sequence.tokens = {{7, std::numeric_limits<float>::quiet_NaN(), {}}};
  choice.token_texts = {{"a", {}}};
  answer.choices = {choice};
  const Json json = Json::parse(format_answer(answer));
  EXPECT_TRUE(json["response"]["body"]["choices"][0]["logprobs"]["token_logprobs"][0].is_null());
}

TEST(Answer, AnErrorCarriesTheRowAndTheField) {
  const Json json = Json::parse(format_error({"row-1", "n: wrong", "n"}));
  EXPECT_EQ(json["custom_id"], "row-1");
  EXPECT_TRUE(json["response"].is_null());
  EXPECT_EQ(json["error"]["message"], "n: wrong");
  EXPECT_EQ(json["error"]["param"], "n");
}

}  // namespace
}  // namespace penstock
