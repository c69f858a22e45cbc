// Group commit: records come in from any thread, and a thread of its own writes and syncs what has gathered.
// So a record is durable a moment after append() without anyone waiting for the disk.
#pragma once

#include <chrono>
#include <condition_variable>
#include <exception>
#include <filesystem>
#include <functional>
#include <mutex>
#include <optional>
#include <string>
#include <thread>

#include "proto/journal.pb.h"
#include "runtime/requests/journal/segment.h"

namespace penstock {

struct CommitLimits {
  /// From the first record that waits to the write. A sync of the disk comes on top; together they stay below
  /// the second that a finished row may be at risk.
  std::chrono::milliseconds delay{250};
  size_t pending_bytes =
      size_t{8} << 20;  ///< written at once when so much waits; append() waits at twice that
  uint64_t segment_bytes = uint64_t{64} << 20;  ///< then the next segment is begun
};

/// Told how long each group commit took, write and sync, once its records are durable. Called on the
/// committing thread, also while the writer is destroyed.
using CommitListener = std::function<void(std::chrono::duration<double>)>;

class JournalWriter {
 public:
  /// Begins with segment `first_segment` when the first record comes; it must not exist.
  JournalWriter(std::filesystem::path folder, uint32_t first_segment, CommitLimits limits,
                CommitListener committed = {});
  /// Commits what was appended, if the disk lets it.
  ~JournalWriter();
  JournalWriter(const JournalWriter&) = delete;
  JournalWriter& operator=(const JournalWriter&) = delete;

  /// Any thread. Throws Error: what broke while committing, once that has happened.
  void append(const proto::JournalRecord& record);
  /// Returns when everything appended so far is durable. Any thread. Throws as append.
  void sync();

 private:
  void commit_until_stopped();
  void write(const std::string& records);
  void rethrow_failure() const;

  const std::filesystem::path folder_;
  const CommitLimits limits_;
  const CommitListener committed_;        // may be empty
  uint32_t next_segment_;                 // committing thread
  std::optional<SegmentWriter> segment_;  // committing thread

  std::mutex mutex_;  // guards what follows
  std::condition_variable changed_;
  std::string pending_;
  std::chrono::steady_clock::time_point pending_since_{};
  uint64_t appended_ = 0;  // records
  uint64_t durable_ = 0;
  bool hurry_ = false;  // someone waits in sync()
  bool stop_ = false;
  std::exception_ptr failure_;

  std::thread thread_;
};

}  // namespace penstock
