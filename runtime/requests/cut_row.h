// A row that a drain cut short: what it has by then as a record of the journal, and back. Pure functions.
#pragma once

#include <optional>
#include <vector>

#include "proto/journal.pb.h"
#include "runtime/requests/scheduler.h"

namespace penstock {

/// One choice of a row, ended or not.
struct ChoiceSoFar {
  std::vector<GeneratedToken> tokens;
  std::optional<FinishReason> ended;
  std::vector<GeneratedToken> prompt{};  ///< its tokens from the second on, as far as they are scored
};

proto::JournaledChoice journaled(const ChoiceSoFar& choice);

/// What the row asks for now.
struct CutRowFit {
  const std::vector<std::vector<int32_t>>& prompts;
  size_t choices_a_prompt = 1;  ///< the first of each carries the prompt's scores
  int64_t max_tokens = 0;       ///< a choice
  bool scores_prompts = false;
  int64_t vocab_size = 0;
};

/// The choices of `row`, if it can go on from them: as many as `fit` says, tokens below `vocab_size`, the
/// unfinished ones shorter than `max_tokens`, scores of these prompts. Nothing otherwise (the input may have
/// changed under --resume=force): then the row is computed from its beginning.
std::optional<std::vector<ChoiceSoFar>> choices_of(const proto::CutRow& row, const CutRowFit& fit);

}  // namespace penstock
