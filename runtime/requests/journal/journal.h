// The journal of a job, in the folder OUTPUT.journal: opened when the job begins, whatever the last one left
// there. It knows which rows are finished and which were cut short, takes new ones, and in the end makes the
// output of them. Grammar of the files: docs/formats.md, "The journal".
//
// A kill at any moment leaves a folder that the next job can open: files are replaced in one step, records
// are checksummed, and the output gets its name before the journal says that it is completed.
#pragma once

#include <filesystem>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "proto/journal.pb.h"
#include "runtime/requests/journal/journal_index.h"
#include "runtime/requests/journal/journal_lock.h"
#include "runtime/requests/journal/journal_writer.h"

namespace penstock {

/// What to do with what an earlier job left.
enum class Resume {
  automatic,  ///< go on where it is the same job, refuse where it is another
  force,      ///< go on whatever has changed
  never,      ///< start over
};

/// Name and value of each thing that decides the bytes of the output.
using JobSettings = std::vector<std::pair<std::string, std::string>>;

struct JournalOptions {
  std::filesystem::path output;
  Resume resume = Resume::automatic;
  CommitLimits commit;
  LockTimes lock;
};

std::filesystem::path journal_of(const std::filesystem::path& output);

class Journal {
 public:
  /// Makes the folder, takes the lock and reads what is there; torn ends are cut off. Throws UsageError when
  /// another job holds the lock or the folder cannot be written.
  explicit Journal(JournalOptions options);
  ~Journal();

  /// For what is known before the weights are read: throws UsageError naming the differences when an
  /// earlier job had another value for one of `settings` and left rows (unless told by Resume).
  void check(const JobSettings& settings, uint64_t rows);
  /// Whether the output stands, whole and unchanged, made by a job of the same settings.
  bool output_stands(const JobSettings& settings, uint64_t rows);

  /// Checks all settings and opens the journal for rows: from here on it is this job's. `committed` must live
  /// as long as the journal.
  void begin(const JobSettings& settings, uint64_t rows, CommitListener committed = {});

  /// What earlier jobs left for this one. After begin().
  JournalIndex& index() { return index_; }
  JournalWriter& writer() { return *writer_; }

  /// Commits, then makes the output of all rows in the input's order under its name, then drops the segments.
  /// Throws Error when a row is missing or the disk is full.
  void complete();

 private:
  void take_manifest();
  void read_segments(uint64_t rows);
  void write_manifest();
  void remove_segments();
  bool holds_rows() const { return index_.finished_rows() + index_.cut_rows() > 0; }
  std::string differences(const JobSettings& settings, uint64_t rows) const;

  JournalOptions options_;
  std::filesystem::path folder_;
  std::unique_ptr<JournalLock> lock_;
  bool has_manifest_ = false;
  proto::JournalManifest manifest_;
  JournalIndex index_;
  std::unique_ptr<JournalWriter> writer_;
};

/// The setting that names the model to rows that name none. After this prefix where a row may name any.
constexpr const char* kModelNameSetting = "the model's name";
constexpr const char* kAnyModelPrefix = "any, ";

/// For reading only, at any time, also while a job writes: the finished rows of `journal` (the folder, or the
/// output it belongs to), each line given to `visit` in the input's order; of a completed journal, the
/// output's; where that is HDF5, lines as answer_line() makes them. Throws UsageError when there is no
/// journal.
struct JournalCounts {
  uint64_t rows = 0;      ///< of the input
  uint64_t finished = 0;  ///< errors included
  uint64_t failed = 0;
  uint64_t cut = 0;        ///< unfinished rows with tokens that a drain saved
  bool from_hdf5 = false;  ///< the lines were made from a completed HDF5 output
};
JournalCounts read_results(const std::filesystem::path& journal,
                           const std::function<void(std::string_view line)>& visit);

}  // namespace penstock
