// The results while they come in: written beside the target and renamed to it at the end, so that a file
// under the target's name is always whole. A target that is no regular file (a pipe, /dev/stdout) is written
// directly. One thread.
#pragma once

#include <filesystem>
#include <string>
#include <string_view>

namespace penstock {

class OutputFile {
 public:
  /// Throws UsageError at once when the target cannot be written.
  explicit OutputFile(const std::filesystem::path& target);
  ~OutputFile();
  OutputFile(const OutputFile&) = delete;
  OutputFile& operator=(const OutputFile&) = delete;

  /// Appends the line and a newline. Buffered. Throws Error when the disk is full.
  void write_line(std::string_view line);
  void flush();
  /// Makes everything durable and gives the file its name.
  void finish();

 private:
  std::filesystem::path target_;
  std::filesystem::path partial_;
  int fd_ = -1;
  bool renames_ = true;
  std::string buffer_;
};

}  // namespace penstock
