// What a journal holds: where each finished row stands, which rows were cut short, and where segments are
// torn. One reading of the folder; the rows themselves stay on disk (8 bytes a row here). A job that writes
// at the same time disturbs nothing: what it adds later is not seen. One thread at a time.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <vector>

#include "proto/journal.pb.h"
#include "runtime/requests/journal/segment.h"

namespace penstock {

/// A segment whose end is not whole: a process died while it wrote, or the disk is failing.
struct TornSegment {
  std::filesystem::path path;
  uint64_t whole_bytes = 0;
  uint64_t file_bytes = 0;
};

class JournalIndex {
 public:
  /// Of a journal without segments.
  JournalIndex() = default;
  /// Reads every segment of `folder`. `rows`: of the input; a record of a later row is left out. Throws
  /// Error when a file cannot be read.
  JournalIndex(std::filesystem::path folder, uint64_t rows);

  uint64_t finished_rows() const { return finished_rows_; }
  uint64_t failed_rows() const { return failed_rows_; }
  uint64_t cut_rows() const { return cut_.size(); }
  /// Whether the row's line of the output is in the journal. Any thread.
  bool finished(uint64_t row) const { return row < places_.size() && places_[row] != 0; }
  /// What a drain saved of a row that is not finished.
  std::optional<proto::CutRow> cut(uint64_t row);

  /// Gives every finished row, in the input's order.
  void for_each_finished(const std::function<void(const proto::FinishedRow&)>& visit);

  const std::vector<TornSegment>& torn() const { return torn_; }
  uint32_t last_segment() const { return segments_.empty() ? 0 : segments_.back(); }

 private:
  void read_segment(uint32_t number, uint64_t rows);
  proto::JournalRecord record_at(uint64_t place);

  std::filesystem::path folder_;
  std::vector<uint32_t> segments_;
  std::vector<uint64_t> places_;      // by row; 0: not finished
  std::map<uint64_t, uint64_t> cut_;  // row -> place
  uint64_t finished_rows_ = 0;
  uint64_t failed_rows_ = 0;
  std::vector<TornSegment> torn_;
  std::map<uint32_t, std::unique_ptr<SegmentReader>> open_;  // a few
};

/// The numbers of the folder's segments, ascending.
std::vector<uint32_t> segments_of(const std::filesystem::path& folder);

/// Cuts the torn ends off, so that the files hold whole records only. Throws Error.
void cut_torn_ends(const std::vector<TornSegment>& torn);

}  // namespace penstock
