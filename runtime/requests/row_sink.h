// Where finished rows go: into the journal that makes the output at the end, or straight into a file that
// cannot be replaced (a pipe, /dev/stdout).
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>

#include "proto/journal.pb.h"
#include "runtime/requests/journal/journal.h"

namespace penstock {

/// put() and idle() are called on the writing thread; the others before it begins or after it has ended,
/// except where they say more.
class RowSink {
 public:
  struct Left {
    int64_t rows = 0;
    int64_t bytes = 0;
  };

  virtual ~RowSink() = default;
  /// Rows that earlier jobs have finished, and how many of them are errors.
  virtual uint64_t finished_rows() const = 0;
  virtual uint64_t failed_rows() const = 0;
  /// Whether the row is one of those. Reading thread.
  virtual bool finished(uint64_t row) const = 0;
  /// What an earlier job saved of a row it did not finish. Planning thread.
  virtual std::optional<proto::CutRow> cut(uint64_t row) = 0;

  /// Takes the row over, and says which rows (with the `bytes` given for them) are not held in memory any
  /// more. Throws Error when the disk is full.
  virtual Left put(proto::FinishedRow row, int64_t bytes) = 0;
  /// Nothing else waits to be put now.
  virtual void idle() = 0;
  /// Saves what a row has that the job leaves unfinished.
  virtual void save(proto::CutRow row) = 0;
  /// Returns when all that was put and saved is as safe as it gets. Any thread.
  virtual void sync() = 0;
  /// All rows of the input have been put: makes the output.
  virtual void complete() = 0;
};

/// Rows go into `journal`, which has begun. `journal` must outlive it.
std::unique_ptr<RowSink> make_journal_sink(Journal& journal);

/// Rows go into the file as soon as those before them have; a regular file gets its name at the end. Nothing
/// can be taken up again. Throws UsageError when it cannot be written.
std::unique_ptr<RowSink> make_direct_sink(const std::filesystem::path& output);

}  // namespace penstock
