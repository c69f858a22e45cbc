// The journal of a generation job: what decides the bytes of its output, written down so that a later job can
// tell whether it is the same one. Rank 0.
#pragma once

#include <memory>

#include "launch/job_options.h"
#include "runtime/requests/journal/journal.h"

namespace penstock {

/// What is known before the weights are read. Reads the input and the model's small files once. Throws
/// UsageError.
JobSettings early_settings(const JobOptions& options);

struct JobJournal {
  std::unique_ptr<Journal> journal;  ///< null where the input or the output is no regular file
  JobSettings settings;
  uint64_t rows = 0;
  bool output_stands = false;  ///< an earlier job has finished: nothing is left to do
};

/// Opens the journal and checks what is known. Throws UsageError as Journal does.
JobJournal open_journal(const JobOptions& options);

/// Adds what is known once the weights are read, and opens the journal for rows. `committed` as in
/// Journal::begin.
void begin_journal(JobJournal& journal, int64_t max_model_len, const std::string& numerics,
                   CommitListener committed);

}  // namespace penstock
