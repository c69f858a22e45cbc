// A batch file's way in: a line is read, parsed and tokenized, and comes out as a row that can be scheduled
// or as that row's error. The file is never held whole. One thread, rank 0's reading one; total_bytes() and
// interrupt() any thread.
#pragma once

#include <filesystem>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "runtime/requests/answer.h"
#include "runtime/requests/id_set.h"
#include "runtime/requests/input_spec.h"
#include "runtime/requests/request.h"
#include "runtime/requests/row_window.h"

namespace penstock {

class Tokenizer;

/// What a row must fit.
struct IntakeRules {
  RequestLimits request;
  int64_t max_model_len = 0;
  int64_t vocab_size = 0;
  std::shared_ptr<const ChatRenderer> chat;  ///< null: chats are errors
  bool splits_reasoning = false;             ///< --reasoning-parser
};

/// A row whose prompts are token ids.
struct ReadyRow {
  Request request;  ///< prompts and conversation emptied; max_tokens is a number
  std::vector<std::vector<int32_t>> prompt_ids;
  std::vector<std::vector<int32_t>> bad_words;
  std::optional<ChatAnswer> chat;
};

struct ReadRow {
  uint64_t number = 0;  ///< counts the rows of the file from 0; blank lines are none
  int64_t bytes = 0;    ///< what it takes of the window
  std::variant<ReadyRow, RowError> what;
};

class RowIntake {
 public:
  /// `tokenizer` may be null: then prompts are token ids. Throws UsageError when the input cannot be read.
  RowIntake(const InputSpec& input, IntakeRules rules, std::shared_ptr<const Tokenizer> tokenizer);

  /// Rows that need not be computed again: next() passes over them, and only takes note of their custom_id.
  /// Before the first next().
  void skip(std::function<bool(uint64_t row)> done) { done_ = std::move(done); }

  /// The next row, once `window` lets it in; nothing at the file's end and when the window is closed. Throws
  /// Error when reading fails, never for what a line holds.
  std::optional<ReadRow> next(RowWindow& window);

  /// next() ends rather than waits for more input, as LineSource::interrupt(). Close the window first.
  void interrupt() { lines_->interrupt(); }

  /// Rows given out or passed over so far.
  uint64_t rows() const { return rows_; }
  uint64_t total_bytes() const { return lines_->total_bytes(); }
  uint64_t bytes_read() const { return lines_->bytes_read(); }

 private:
  std::variant<ReadyRow, RowError> prepare(const std::string& line);
  void render(ReadyRow& row) const;
  void tokenize(ReadyRow& row, std::vector<Prompt> prompts) const;
  std::vector<int32_t> tokenize(Prompt prompt, bool add_special_tokens) const;
  void check_length(ReadyRow& row, int64_t prompt) const;
  void check_vocabulary(const ReadyRow& row) const;
  void tokenize_bad_words(ReadyRow& row) const;

  IntakeRules rules_;
  bool keeps_parts_;  // the chat template walks a message's parts itself
  std::shared_ptr<const Tokenizer> tokenizer_;
  std::unique_ptr<LineSource> lines_;
  IdSet ids_;
  std::string line_;
  std::function<bool(uint64_t)> done_;
  uint64_t rows_ = 0;
};

/// Reads the input once and counts its rows. Throws as RowIntake.
uint64_t count_rows(const InputSpec& input);

}  // namespace penstock
