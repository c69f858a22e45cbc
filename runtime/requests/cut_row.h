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
};

proto::JournaledChoice journaled(const ChoiceSoFar& choice);

/// The choices of `row`, if it can go on from them: `choices` of them, tokens below `vocab_size`, the
/// unfinished ones shorter than `max_tokens`. Nothing otherwise (the input may have changed under
/// --resume=force): then the row is computed from its beginning.
std::optional<std::vector<ChoiceSoFar>> choices_of(const proto::CutRow& row, size_t choices,
                                                   int64_t max_tokens, int64_t vocab_size);

}  // namespace penstock
