// One file of the journal: checksummed records, one after another, only ever appended to. Grammar:
// docs/formats.md, "The journal". One thread an object.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>

#include "runtime/requests/journal/durable_file.h"

namespace penstock {

/// The longest record. A longer length in a file means that the file is broken there.
constexpr uint64_t kLongestRecord = uint64_t{1} << 30;

/// CRC32C (Castagnoli), as iSCSI and ext4 use it.
uint32_t crc32c(std::string_view bytes);

/// Puts the record's frame and `payload` at the end of `out`. Throws Error when it is longer than
/// kLongestRecord.
void append_record(std::string& out, std::string_view payload);

std::filesystem::path segment_path(const std::filesystem::path& folder, uint32_t number);

/// A new segment. Throws Error when it cannot be made or written, or is there already.
class SegmentWriter {
 public:
  SegmentWriter(const std::filesystem::path& folder, uint32_t number);
  /// `records`: what append_record made. Durable once this returns.
  void write(std::string_view records);
  uint64_t bytes() const { return bytes_; }

 private:
  std::filesystem::path path_;
  FileHandle file_;
  uint64_t bytes_ = 0;
};

/// Reads a segment that another process may be writing at the same time: ends at the first record that is not
/// whole.
class SegmentReader {
 public:
  explicit SegmentReader(std::filesystem::path path);

  /// The payload of the next whole record, valid until the next call; false at the first that is not. Throws
  /// Error when reading fails.
  bool next(std::string_view& payload);
  /// Where the record that next() gave begins, and where the whole records end.
  uint64_t record_begin() const { return record_begin_; }
  uint64_t whole_bytes() const { return at_; }
  uint64_t file_bytes() const;

  /// The payload of the record at `offset`, which an earlier reading has found whole. Throws Error when it is
  /// not there any more.
  std::string_view at(uint64_t offset);

 private:
  bool record_at(uint64_t offset, std::string_view& payload);
  bool load(uint64_t offset, size_t bytes);

  std::filesystem::path path_;
  FileHandle file_;
  std::string window_;  // bytes of the file from window_begin_ on
  uint64_t window_begin_ = 0;
  uint64_t record_begin_ = 0;
  uint64_t at_ = 0;
};

}  // namespace penstock
