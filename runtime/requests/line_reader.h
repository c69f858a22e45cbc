// Lines of a file, one after another, in memory that does not grow with the file. One thread.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>

namespace penstock {

class LineReader {
 public:
  /// Throws UsageError when the file cannot be opened or is a folder. "-" is standard input.
  LineReader(const std::filesystem::path& path, size_t longest_line);
  ~LineReader();
  LineReader(const LineReader&) = delete;
  LineReader& operator=(const LineReader&) = delete;

  enum class Status { line, too_long, end };
  /// The next line without its newline ('\n' or "\r\n"). A line longer than `longest_line` is skipped to its
  /// end. The last line may lack its newline. Throws Error when reading fails.
  Status next(std::string& line);

  /// Bytes of the file, 0 when it is not a regular file; and how many have been read. For progress.
  uint64_t total_bytes() const { return total_bytes_; }
  uint64_t bytes_read() const { return bytes_read_; }

 private:
  bool refill();

  std::filesystem::path path_;
  int fd_ = -1;
  size_t longest_line_;
  std::string buffer_;
  size_t begin_ = 0;
  uint64_t total_bytes_ = 0;
  uint64_t bytes_read_ = 0;
};

}  // namespace penstock
