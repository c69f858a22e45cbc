#include "tests/fuzz/fuzz_targets.h"

#include <cstdlib>
#include <nlohmann/json.hpp>

#include "runtime/base/error.h"
#include "runtime/requests/answer.h"
#include "runtime/requests/chat_messages.h"
#include "runtime/requests/text/chat_template.h"
#include "runtime/requests/text/tokenizer.h"
#include "runtime/requests/text/utf8.h"

namespace penstock::fuzz {
namespace {

void require(bool holds) {
  if (!holds) std::abort();
}

const char* const kTexts[] = {
    "", "Hello, world's  \n\n 123456 don't",
    "\u00e9e\u0301\u4f60\u597d\U0001F999\u200d<s></s>\u2581a\u2581\u2581b", "   lead <unk> trail   ",
    "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"};

}  // namespace

void tokenizer_json(const std::string& input) {
  std::shared_ptr<const Tokenizer> tokenizer;
  try {
    tokenizer = Tokenizer::parse(input, "fuzz");
  } catch (const Error&) {
    return;
  }
  for (const char* text : kTexts) {
    try {
      const std::vector<int32_t> ids = tokenizer->encode(text, true);
      for (const int32_t id : ids) require(id >= 0 && static_cast<size_t>(id) < tokenizer->vocab_size());
      const std::string decoded = tokenizer->decode(ids, false);
      require(!utf8::first_invalid(decoded));
      Detokenizer stream(tokenizer, {false, true});
      std::string joined;
      for (const int32_t id : ids) joined += stream.push(id);
      require(joined + stream.flush() == decoded);
    } catch (const Error&) {
      continue;  // bounds and patterns that backtrack without end
    }
  }
}

void chat_template(const std::string& input) {
  static const auto variables = nlohmann::ordered_json::parse(R"({
    "messages": [{"role": "system", "content": "be kind"}, {"role": "user", "content": [{"type": "text", "text": "hi"}]},
                 {"role": "assistant", "content": null, "tool_calls": [{"function": {"name": "f", "arguments": {"a": [1, 2.5, null, true]}}}]}],
    "tools": [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}],
    "s": "Hello World", "n": 5, "l": [3, 1, 2], "d": {"b": 1, "a": "\u00e9"}, "add_generation_prompt": true})");
  try {
    const std::string rendered = ChatTemplate::parse(input)->render(variables);
    require(!utf8::first_invalid(rendered));
  } catch (const Error&) {
    return;
  }
}

void batch_line(const std::string& input) {
  static const auto chat = ChatTemplate::parse(
      "{% for m in messages %}{{ m.role }}: {{ m.content }}{% for c in m.tool_calls or [] %}"
      "{{ c.function.arguments | tojson }}{% endfor %}{% endfor %}{{ tools | tojson }}");
  auto parsed = parse_batch_line(input, {});
  if (const auto* error = std::get_if<RowError>(&parsed)) {
    require(!error->message.empty());
    require(nlohmann::json::accept(format_error(*error)));
    return;
  }
  const auto& request = std::get<Request>(parsed);
  require(request.chat.has_value() == request.prompts.empty());
  const SamplingFields& s = request.sampling;
  require(s.n >= 1 && s.temperature >= 0 && s.top_p > 0 && s.top_p <= 1 && s.repetition_penalty > 0 &&
          (s.max_tokens < 0 || s.min_tokens <= s.max_tokens || s.max_tokens == 0));
  if (!request.chat) return;
  for (const bool keep_parts : {false, true}) {
    try {
      const auto messages = prepared_messages(*request.chat->messages, keep_parts);
      chat->render({{"messages", messages},
                    {"tools", request.chat->tools ? *request.chat->tools : nlohmann::ordered_json()}});
    } catch (const Error&) {
      continue;
    }
  }
}

}  // namespace penstock::fuzz
