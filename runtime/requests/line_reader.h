// Lines of a file, one after another, in memory that does not grow with the file. One thread.
#pragma once

#include <filesystem>

#include "runtime/requests/input_spec.h"
#include "runtime/requests/journal/durable_file.h"

namespace penstock {

class LineReader final : public LineSource {
 public:
  /// Of a shard: the lines whose first byte lies in its range of the file's bytes. Throws UsageError when the
  /// file cannot be opened, is a folder, or is to be divided and is no regular file. "-" is standard input.
  LineReader(const std::filesystem::path& path, size_t longest_line, const Shard& shard = {});

  /// A line ends with '\n' or "\r\n"; the last may lack it.
  Status next(std::string& line) override;
  void interrupt() override;
  uint64_t line_number() const override { return line_number_; }
  uint64_t total_bytes() const override { return total_bytes_; }
  uint64_t bytes_read() const override { return bytes_read_; }

 private:
  bool refill();
  bool wait_for_input();
  void go_to(const Range& range);
  uint64_t position() const;

  std::filesystem::path path_;
  FileHandle file_;
  FileHandle interrupted_;  // an eventfd, read by nobody; none for a regular file, which never keeps waiting
  size_t longest_line_;
  std::string buffer_;
  size_t begin_ = 0;
  uint64_t first_byte_ = 0;    // of the file: where reading began
  uint64_t end_ = UINT64_MAX;  // no line begins here or later
  uint64_t line_number_ = 0;
  uint64_t total_bytes_ = 0;
  uint64_t bytes_read_ = 0;
};

}  // namespace penstock
