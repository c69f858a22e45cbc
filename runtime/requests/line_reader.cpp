#include "runtime/requests/line_reader.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "runtime/base/error.h"

namespace penstock {

LineReader::LineReader(const std::filesystem::path& path, size_t longest_line, const Shard& shard)
    : path_(path),
      file_(path == "-" ? dup(STDIN_FILENO) : open(path.c_str(), O_RDONLY | O_CLOEXEC)),
      longest_line_(longest_line) {
  if (!file_.is_open())
    throw UsageError("--input-file " + path.string() + ": cannot be opened: " + std::strerror(errno));
  struct stat info {};
  if (fstat(file_.get(), &info) != 0 || S_ISDIR(info.st_mode))
    throw UsageError("--input-file " + path.string() + ": expected a file of JSON lines, found a folder");
  if (S_ISREG(info.st_mode)) {
    total_bytes_ = static_cast<uint64_t>(info.st_size);
    if (!shard.whole()) go_to(range_of(shard, total_bytes_));
    return;
  }
  if (!shard.whole())
    throw UsageError("--shard " + shard.text() + ": expected an input that is a regular file, found " +
                     path.string());
  interrupted_ = FileHandle(eventfd(0, EFD_CLOEXEC));
  if (!interrupted_.is_open())
    throw Error("--input-file " + path.string() +
                ": waiting for it cannot be arranged: " + std::strerror(errno));
}

uint64_t LineReader::position() const {
  return first_byte_ + bytes_read_ - (buffer_.size() - begin_);
}

/// Goes to the first line that begins in the range; what lies before is read for its line numbers alone.
void LineReader::go_to(const Range& range) {
  end_ = range.end;
  const uint64_t before = range.begin == 0 ? 0 : range.begin - 1;  // the newline there may end a line
  while (bytes_read_ < before && refill()) {
    const size_t counted = std::min<uint64_t>(buffer_.size(), before - (bytes_read_ - buffer_.size()));
    line_number_ += static_cast<uint64_t>(
        std::count(buffer_.begin(), buffer_.begin() + static_cast<ptrdiff_t>(counted), '\n'));
    begin_ = counted;
  }
  if (range.begin > 0) {
    std::string rest_of_a_line;
    next(rest_of_a_line);
  }
  first_byte_ = position();
  bytes_read_ = buffer_.size() - begin_;
  total_bytes_ = range.end > first_byte_ ? range.end - first_byte_ : 0;
}

void LineReader::interrupt() {
  const uint64_t one = 1;
  if (interrupted_.is_open()) (void)!write(interrupted_.get(), &one, sizeof one);
}

/// False when it was interrupted.
bool LineReader::wait_for_input() {
  pollfd either[] = {{interrupted_.get(), POLLIN, 0}, {file_.get(), POLLIN, 0}};
  while (poll(either, 2, -1) < 0)
    if (errno != EINTR)
      throw Error("--input-file " + path_.string() + ": waiting for it failed: " + std::strerror(errno));
  return either[0].revents == 0;
}

bool LineReader::refill() {
  constexpr size_t kChunk = 1U << 18;
  buffer_.erase(0, begin_);
  begin_ = 0;
  const size_t old = buffer_.size();
  buffer_.resize(old + kChunk);
  ssize_t n = 0;
  do n = read(file_.get(), buffer_.data() + old, kChunk);
  while (n < 0 && errno == EINTR);
  buffer_.resize(old + static_cast<size_t>(std::max<ssize_t>(n, 0)));
  if (n < 0) throw Error("--input-file " + path_.string() + ": reading failed: " + std::strerror(errno));
  bytes_read_ += static_cast<uint64_t>(n);
  return n > 0;
}

LineReader::Status LineReader::next(std::string& line) {
  if (position() >= end_) return Status::end;
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
    if (interrupted_.is_open() && !wait_for_input()) return Status::end;
    if (!refill()) {
      if (begin_ == buffer_.size() && !too_long) return Status::end;
      line.assign(buffer_, begin_);
      begin_ = buffer_.size();
      break;
    }
  }
  ++line_number_;
  if (too_long) {
    line.clear();
    return Status::too_long;
  }
  if (!line.empty() && line.back() == '\r') line.pop_back();
  return Status::line;
}

}  // namespace penstock
