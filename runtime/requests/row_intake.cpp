#include "runtime/requests/row_intake.h"

#include <algorithm>

#include "runtime/base/error.h"
#include "runtime/requests/text/tokenizer.h"

namespace penstock {
namespace {

constexpr size_t kLongestLine = size_t{16} << 20;

bool is_blank(LineSource::Status status, const std::string& line) {
  return status == LineSource::Status::line && line.find_first_not_of(" \t") == std::string::npos;
}

}  // namespace

RowIntake::RowIntake(const InputSpec& input, IntakeRules rules, std::shared_ptr<const Tokenizer> tokenizer)
    : rules_(std::move(rules)), tokenizer_(std::move(tokenizer)), lines_(open_lines(input, kLongestLine)) {}

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
  if (std::optional<RowError> error = tokenize(row, std::move(row.request.prompts))) return std::move(*error);
  return row;
}

std::optional<RowError> RowIntake::tokenize(ReadyRow& row, std::vector<Prompt> prompts) const {
  const auto reject = [&row](const std::string& field, const std::string& message) {
    return RowError{row.request.custom_id, field + ": " + message, field};
  };
  const SamplingFields& sampling = row.request.sampling;
  for (Prompt& prompt : prompts) {
    std::vector<int32_t> ids;
    if (auto* given = std::get_if<std::vector<int32_t>>(&prompt)) {
      ids = std::move(*given);
      const auto bad =
          std::find_if(ids.begin(), ids.end(), [this](int32_t id) { return id >= rules_.vocab_size; });
      if (bad != ids.end())
        return reject("prompt", "expected token ids below " + std::to_string(rules_.vocab_size) + ", found " +
                                    std::to_string(*bad));
    } else if (tokenizer_ == nullptr) {
      return reject("prompt",
                    "expected token ids, found text: the model folder has no tokenizer.json (or "
                    "--skip-tokenizer-init was given)");
    } else {
      try {
        ids = tokenizer_->encode(std::get<std::string>(prompt), sampling.add_special_tokens);
      } catch (const Error& e) {
        return reject("prompt", e.what());
      }
    }
    if (ids.empty()) return reject("prompt", "expected at least one token, found none");
    const auto length = static_cast<int64_t>(ids.size());
    if (length >= rules_.max_model_len)
      return reject("prompt", "expected at most " + std::to_string(rules_.max_model_len - 1) +
                                  " tokens (--max-model-len less one to generate), found " +
                                  std::to_string(length));
    if (length + sampling.max_tokens > rules_.max_model_len)
      return reject("max_tokens", "expected at most " + std::to_string(rules_.max_model_len - length) +
                                      " (--max-model-len " + std::to_string(rules_.max_model_len) + " less " +
                                      std::to_string(length) + " prompt tokens), found " +
                                      std::to_string(sampling.max_tokens));
    row.prompt_ids.push_back(std::move(ids));
  }
  return std::nullopt;
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
