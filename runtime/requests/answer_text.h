// The text of a sequence: incremental on the planning thread, to end it at a stop string, and whole on the
// writing thread. Both walk the tokens the same way, so they agree, and nothing but the tokens has to be kept
// between them.
#pragma once

#include <memory>
#include <optional>
#include <span>
#include <string>

#include "runtime/requests/answer.h"
#include "runtime/requests/sampling_fields.h"
#include "runtime/requests/text/stop_matcher.h"
#include "runtime/requests/text/tokenizer.h"

namespace penstock {

/// One sequence, one thread.
class SequenceText {
 public:
  SequenceText(const std::shared_ptr<const Tokenizer>& tokenizer, const SamplingFields& fields);

  /// The next generated token. True when a stop string is complete: the sequence is at its end. As in vLLM, a
  /// stop string counts from the token after min_tokens on.
  bool push(int32_t id);
  /// The text so far; nothing may be pushed afterwards.
  std::string finish();
  /// Which of `fields.stop` was found.
  std::optional<size_t> stop() const { return stop_; }

 private:
  Detokenizer detokenizer_;
  StopMatcher matcher_;
  int64_t unsearched_;  // tokens to come that no stop string may end
  std::string text_;
  std::optional<size_t> stop_;
};

/// Fills in an answer's texts: of choices, of tokens for log-probabilities, of an echoed prompt. `tokenizer`
/// may be null.
void fill_texts(Answer& answer, const std::shared_ptr<const Tokenizer>& tokenizer);

}  // namespace penstock
