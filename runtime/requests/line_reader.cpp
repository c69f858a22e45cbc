#include "runtime/requests/line_reader.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "runtime/base/error.h"

namespace penstock {

LineReader::LineReader(const std::filesystem::path& path, size_t longest_line)
    : path_(path),
      fd_(path == "-" ? dup(STDIN_FILENO) : open(path.c_str(), O_RDONLY | O_CLOEXEC)),
      longest_line_(longest_line) {
  if (fd_ < 0)
    throw UsageError("--input-file " + path.string() + ": cannot be opened: " + std::strerror(errno));
  struct stat info {};
  if (fstat(fd_, &info) != 0 || S_ISDIR(info.st_mode)) {
    close(fd_);
    throw UsageError("--input-file " + path.string() + ": expected a file of JSON lines, found a folder");
  }
  if (S_ISREG(info.st_mode)) total_bytes_ = static_cast<uint64_t>(info.st_size);
}

LineReader::~LineReader() {
  close(fd_);
}

bool LineReader::refill() {
  constexpr size_t kChunk = 1U << 18;
  buffer_.erase(0, begin_);
  begin_ = 0;
  const size_t old = buffer_.size();
  buffer_.resize(old + kChunk);
  ssize_t n = 0;
  do n = read(fd_, buffer_.data() + old, kChunk);
  while (n < 0 && errno == EINTR);
  buffer_.resize(old + static_cast<size_t>(std::max<ssize_t>(n, 0)));
  if (n < 0) throw Error("--input-file " + path_.string() + ": reading failed: " + std::strerror(errno));
  bytes_read_ += static_cast<uint64_t>(n);
  return n > 0;
}

LineReader::Status LineReader::next(std::string& line) {
  bool too_long = false;
  size_t searched = begin_;
  for (;;) {
    const size_t newline = buffer_.find('\n', searched);
    if (newline != std::string::npos) {
      too_long = too_long || newline - begin_ > longest_line_;
      line.assign(buffer_, begin_, newline - begin_);
      begin_ = newline + 1;
      break;
    }
    if (buffer_.size() - begin_ > longest_line_) {
      too_long = true;
      begin_ = buffer_.size();
    }
    searched = buffer_.size() -
               begin_;  // where the next search starts once refill() has moved the rest to the front
    if (!refill()) {
      if (begin_ == buffer_.size() && !too_long) return Status::end;
      line.assign(buffer_, begin_);
      begin_ = buffer_.size();
      break;
    }
  }
  if (too_long) {
    line.clear();
    return Status::too_long;
  }
  if (!line.empty() && line.back() == '\r') line.pop_back();
  return Status::line;
}

}  // namespace penstock
