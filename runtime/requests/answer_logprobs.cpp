#include "runtime/requests/answer_logprobs.h"

#include <algorithm>
#include <charconv>
#include <cmath>

namespace penstock {
namespace {

using Json = nlohmann::ordered_json;

/// The shortest decimal that reads back as the same float; JSON has no NaN or infinity, which become null.
Json exact(float value) {
  if (!std::isfinite(value)) return nullptr;
  char digits[32];
  const auto end = std::to_chars(std::begin(digits), std::end(digits), value).ptr;
  double decimal = 0;
  std::from_chars(std::begin(digits), end, decimal);
  return decimal;
}

/// Characters, as Python counts them, of a piece of UTF-8.
size_t characters_of(const std::string& text) {
  return static_cast<size_t>(std::count_if(
      text.begin(), text.end(), [](char c) { return (static_cast<unsigned char>(c) & 0xC0) != 0x80; }));
}

/// The lists of a completion's logprobs as they grow.
struct CompletionLists {
  Json tokens = Json::array();
  Json token_logprobs = Json::array();
  Json top_logprobs = Json::array();
  Json text_offset = Json::array();
  size_t offset = 0;

  void add(const std::string& text, Json logprob, Json top) {
    tokens.push_back(text);
    token_logprobs.push_back(std::move(logprob));
    top_logprobs.push_back(std::move(top));
    text_offset.push_back(offset);
    offset += characters_of(text);
  }

  void add(const GeneratedToken& token, const TokenTexts& texts) {
    // As vLLM: the drawn token and the alternatives, keyed by their text; where two share a text the likelier
    // stays.
    Json top = Json::object();
    for (size_t k = 0; k < token.top.size(); ++k)
      if (!top.contains(texts.top[k])) top[texts.top[k]] = exact(token.top[k].second);
    if (!top.contains(texts.text)) top[texts.text] = exact(token.logprob);
    add(texts.text, exact(token.logprob), std::move(top));
  }
};

Json bytes_of(const std::string& text) {
  Json bytes = Json::array();
  for (const char c : text) bytes.push_back(static_cast<unsigned char>(c));
  return bytes;
}

}  // namespace

Json completion_logprobs(const Answer& answer, const Choice& choice) {
  CompletionLists lists;
  if (answer.fields.echo) {
    lists.add(choice.first_prompt_text, nullptr, nullptr);
    for (size_t i = 0; i < choice.sequence.prompt.size(); ++i)
      lists.add(choice.sequence.prompt[i], choice.prompt_texts[i]);
  }
  for (size_t i = 0; i < choice.sequence.tokens.size(); ++i)
    lists.add(choice.sequence.tokens[i], choice.token_texts[i]);
  return {{"tokens", std::move(lists.tokens)},
          {"token_logprobs", std::move(lists.token_logprobs)},
          {"top_logprobs", std::move(lists.top_logprobs)},
          {"text_offset", std::move(lists.text_offset)}};
}

Json chat_logprobs(const Choice& choice) {
  Json content = Json::array();
  const auto entry = [](const std::string& text, float logprob) {
    return Json{{"token", text}, {"logprob", exact(logprob)}, {"bytes", bytes_of(text)}};
  };
  for (size_t i = 0; i < choice.sequence.tokens.size(); ++i) {
    const GeneratedToken& token = choice.sequence.tokens[i];
    Json one = entry(choice.token_texts[i].text, token.logprob);
    Json top = Json::array();
    for (size_t k = 0; k < token.top.size(); ++k)
      top.push_back(entry(choice.token_texts[i].top[k], token.top[k].second));
    one["top_logprobs"] = std::move(top);
    content.push_back(std::move(one));
  }
  return {{"content", std::move(content)}};
}

Json prompt_logprobs(const Choice& choice) {
  Json list = Json::array({nullptr});
  for (size_t i = 0; i < choice.sequence.prompt.size(); ++i) {
    const GeneratedToken& token = choice.sequence.prompt[i];
    Json one = Json::object();
    const auto add = [&one](int32_t id, float logprob, int64_t rank, const std::string& text) {
      const std::string key = std::to_string(id);
      if (!one.contains(key))
        one[key] = {{"logprob", exact(logprob)}, {"rank", rank}, {"decoded_token", text}};
    };
    add(token.id, token.logprob, token.rank, choice.prompt_texts[i].text);
    for (size_t k = 0; k < token.top.size(); ++k)
      add(token.top[k].first, token.top[k].second, static_cast<int64_t>(k) + 1,
          choice.prompt_texts[i].top[k]);
    list.push_back(std::move(one));
  }
  return list;
}

}  // namespace penstock
