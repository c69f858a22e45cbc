#include "runtime/requests/row_intake.h"

#include <algorithm>

#include "runtime/base/error.h"
#include "runtime/requests/chat_messages.h"
#include "runtime/requests/field_checks.h"
#include "runtime/requests/text/tokenizer.h"

namespace penstock {
namespace {

constexpr size_t kLongestLine = size_t{16} << 20;

bool is_blank(LineSource::Status status, const std::string& line) {
  return status == LineSource::Status::line && line.find_first_not_of(" \t") == std::string::npos;
}

[[noreturn]] void reject(const std::string& field, const std::string& message) {
  throw FieldError{field + ": " + message, field};
}

/// The text of a conversation's last message, for echo.
std::string last_text(const nlohmann::ordered_json& messages) {
  const nlohmann::ordered_json& last = messages.back();
  return last.contains("content") && last["content"].is_string() ? last["content"].get<std::string>() : "";
}

/// About what the answer's prompt log-probabilities take in memory until they are written.
int64_t prompt_logprob_bytes(const ReadyRow& row) {
  if (!row.request.sampling.prompt_logprobs) return 0;
  constexpr int64_t kBytesAToken = 200;  // numbers, and texts in the answer's line
  int64_t tokens = 0;
  for (const auto& ids : row.prompt_ids) tokens += static_cast<int64_t>(ids.size());
  return tokens * row.request.sampling.n * kBytesAToken * (2 + *row.request.sampling.prompt_logprobs);
}

}  // namespace

RowIntake::RowIntake(const InputSpec& input, IntakeRules rules, std::shared_ptr<const Tokenizer> tokenizer)
    : rules_(std::move(rules)),
      keeps_parts_(rules_.chat != nullptr && template_takes_parts(*rules_.chat)),
      tokenizer_(std::move(tokenizer)),
      lines_(open_lines(input, kLongestLine)) {}

std::optional<ReadRow> RowIntake::next(RowWindow& window) {
  for (;;) {
    const LineSource::Status status = lines_->next(line_);
    if (status == LineSource::Status::end) return std::nullopt;
    if (is_blank(status, line_)) continue;
    if (done_ && done_(rows_)) {
      if (window.closed()) return std::nullopt;
      const std::variant<Request, RowError> parsed = parse_batch_line(line_, rules_.request);
      if (const auto* request = std::get_if<Request>(&parsed)) ids_.insert(request->custom_id);
      ++rows_;
      continue;
    }
    const auto bytes = static_cast<int64_t>(sizeof(ReadRow) + 4 * line_.size());
    if (!window.enter(bytes)) return std::nullopt;
    ReadRow row{rows_++, bytes, {}};
    if (status == LineSource::Status::too_long)
      row.what = RowError{"", "expected at most " + std::to_string(kLongestLine) + " bytes a line", ""};
    else
      row.what = prepare(line_);
    if (auto* ready = std::get_if<ReadyRow>(&row.what)) {
      const int64_t more = prompt_logprob_bytes(*ready);
      window.grow(more);
      row.bytes += more;
    }
    if (auto* error = std::get_if<RowError>(&row.what))
      error->message = "line " + std::to_string(lines_->line_number()) + ": " + error->message;
    return row;
  }
}

std::variant<ReadyRow, RowError> RowIntake::prepare(const std::string& line) {
  std::variant<Request, RowError> parsed = parse_batch_line(line, rules_.request);
  if (auto* error = std::get_if<RowError>(&parsed)) return std::move(*error);
  ReadyRow row{std::move(std::get<Request>(parsed)), {}};
  if (!ids_.insert(row.request.custom_id))
    return RowError{row.request.custom_id,
                    "custom_id: '" + row.request.custom_id +
                        "' was used by an earlier line; every row needs one of its own",
                    "custom_id"};
  try {
    if (row.request.chat) render(row);
    check_vocabulary(row);
    tokenize_bad_words(row);
    tokenize(row, std::move(row.request.prompts));
  } catch (const FieldError& error) {
    return RowError{row.request.custom_id, error.message, error.field};
  }
  return row;
}

void RowIntake::render(ReadyRow& row) const {
  const Conversation chat = std::move(*row.request.chat);
  row.request.chat.reset();
  if (rules_.chat == nullptr)
    reject("messages",
           "expected a model folder with a chat template, or --chat-template with one; found neither");
  try {
    const nlohmann::ordered_json messages = prepared_messages(*chat.messages, keeps_parts_);
    row.chat.emplace();
    row.chat->splits_reasoning = rules_.splits_reasoning;
    row.chat->include_reasoning = chat.include_reasoning;
    // As in vLLM: without a generation prompt the answer goes on as the last speaker.
    row.chat->role = chat.options.add_generation_prompt ? "assistant" : messages.back().value("role", "");
    if (row.request.sampling.echo && messages.back().value("role", "") == row.chat->role)
      row.chat->echoed = last_text(messages);
    row.request.prompts = {rules_.chat->render(messages, chat.tools ? *chat.tools : nlohmann::ordered_json(),
                                               chat.kwargs ? *chat.kwargs : nlohmann::ordered_json(),
                                               chat.options)};
  } catch (const Error& error) {
    reject("messages", error.what());
  }
}

std::vector<int32_t> RowIntake::tokenize(Prompt prompt, bool add_special_tokens) const {
  if (auto* ids = std::get_if<std::vector<int32_t>>(&prompt)) {
    const auto bad =
        std::find_if(ids->begin(), ids->end(), [this](int32_t id) { return id >= rules_.vocab_size; });
    if (bad != ids->end())
      reject("prompt", "expected token ids below " + std::to_string(rules_.vocab_size) + ", found " +
                           std::to_string(*bad));
    return std::move(*ids);
  }
  if (tokenizer_ == nullptr)
    reject("prompt",
           "expected token ids, found text: the model folder has no tokenizer.json (or "
           "--skip-tokenizer-init was given)");
  try {
    return tokenizer_->encode(std::get<std::string>(prompt), add_special_tokens);
  } catch (const Error& error) {
    reject("prompt", error.what());
  }
}

void RowIntake::tokenize(ReadyRow& row, std::vector<Prompt> prompts) const {
  for (Prompt& prompt : prompts) {
    std::vector<int32_t> ids = tokenize(std::move(prompt), row.request.sampling.add_special_tokens);
    if (ids.empty()) reject("prompt", "expected at least one token, found none");
    check_length(row, static_cast<int64_t>(ids.size()));
    row.prompt_ids.push_back(std::move(ids));
  }
}

/// Also gives max_tokens its number where the row has none: a chat, which has one prompt.
void RowIntake::check_length(ReadyRow& row, int64_t prompt) const {
  SamplingFields& sampling = row.request.sampling;
  const int64_t room = rules_.max_model_len - prompt;
  if (room < 1)
    reject("prompt", "expected at most " + std::to_string(rules_.max_model_len - 1) +
                         " tokens (--max-model-len less one to generate), found " + std::to_string(prompt));
  if (sampling.max_tokens > room)
    reject("max_tokens", "expected at most " + std::to_string(room) + " (--max-model-len " +
                             std::to_string(rules_.max_model_len) + " less " + std::to_string(prompt) +
                             " prompt tokens), found " + std::to_string(sampling.max_tokens));
  if (sampling.max_tokens == kRestOfContext) sampling.max_tokens = room;
  if (const int64_t most = rules_.request.defaults.most_new_tokens; most > 0)
    sampling.max_tokens = std::min(sampling.max_tokens, most);
  sampling.min_tokens = std::min(sampling.min_tokens, sampling.max_tokens);
}

void RowIntake::check_vocabulary(const ReadyRow& row) const {
  const SamplingFields& sampling = row.request.sampling;
  const auto check = [this](const char* field, int32_t id) {
    if (id >= rules_.vocab_size)
      reject(field, "expected token ids below " + std::to_string(rules_.vocab_size) + ", found " +
                        std::to_string(id));
  };
  for (const int32_t id : sampling.stop_token_ids) check("stop_token_ids", id);
  for (const int32_t id : sampling.allowed_token_ids) check("allowed_token_ids", id);
  for (const auto& [id, bias] : sampling.logit_bias) check("logit_bias", id);
  if (tokenizer_ == nullptr && !sampling.stop.empty())
    reject("stop", "expected none without a tokenizer; stop_token_ids work without one");
  if (tokenizer_ == nullptr && !sampling.bad_words.empty())
    reject("bad_words", "expected none without a tokenizer; logit_bias works without one");
}

/// As vLLM (SamplingParams.update_from_tokenizer): a word as it begins a text, and as it follows a space
/// where that is another first token and as many tokens.
void RowIntake::tokenize_bad_words(ReadyRow& row) const {
  for (const std::string& word : row.request.sampling.bad_words) {
    const std::string bare = word.substr(std::min(word.find_first_not_of(" \t\n\r\f\v"), word.size()));
    try {
      std::vector<int32_t> plain = tokenizer_->encode(bare, false);
      std::vector<int32_t> spaced = tokenizer_->encode(" " + bare, false);
      if (plain.empty()) reject("bad_words", "expected words of at least one token, found '" + word + "'");
      const bool differs = spaced.size() == plain.size() && spaced.front() != plain.front();
      for (std::vector<int32_t>* ids : {&plain, &spaced})
        for (const int32_t id : *ids)
          if (id >= rules_.vocab_size)
            reject("bad_words", "expected tokens below " + std::to_string(rules_.vocab_size) + ", found " +
                                    std::to_string(id) + " in '" + word + "'");
      row.bad_words.push_back(std::move(plain));
      if (differs) row.bad_words.push_back(std::move(spaced));
    } catch (const Error& error) {
      reject("bad_words", error.what());
    }
  }
}

uint64_t count_rows(const InputSpec& input) {
  const std::unique_ptr<LineSource> lines = open_lines(input, kLongestLine);
  std::string line;
  uint64_t rows = 0;
  for (auto status = lines->next(line); status != LineSource::Status::end; status = lines->next(line))
    rows += is_blank(status, line) ? 0 : 1;
  return rows;
}

}  // namespace penstock
