#include "runtime/requests/output_file.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "runtime/base/error.h"
#include "runtime/requests/journal/durable_file.h"

namespace penstock {
namespace fs = std::filesystem;

OutputFile::OutputFile(const fs::path& target) : target_(behind_link(target)), partial_(target_) {
  std::error_code ignored;
  const fs::file_status status = fs::status(target_, ignored);
  if (fs::is_directory(status))
    throw UsageError("--output-file " + target_.string() + ": expected a file, found a folder");
  renames_ = !fs::exists(status) || fs::is_regular_file(status);
  if (renames_) partial_ += ".partial";
  fd_ = open(partial_.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
  if (fd_ < 0)
    throw UsageError("--output-file " + target_.string() + ": cannot be written: " + std::strerror(errno) +
                     "; name a file in a folder that exists and may be written");
}

OutputFile::~OutputFile() {
  if (fd_ >= 0) close(fd_);
}

void OutputFile::write_line(std::string_view line) {
  constexpr size_t kBuffered = 1U << 16;
  buffer_ += line;
  buffer_ += '\n';
  if (buffer_.size() >= kBuffered) flush();
}

void OutputFile::flush() {
  std::string_view rest = buffer_;
  while (!rest.empty()) {
    const ssize_t n = write(fd_, rest.data(), rest.size());
    if (n < 0 && errno == EINTR) continue;
    if (n < 0)
      throw Error("--output-file " + partial_.string() + ": writing failed: " + std::strerror(errno) +
                  (errno == ENOSPC || errno == EDQUOT ? "; free some space and start the job again" : ""));
    rest.remove_prefix(static_cast<size_t>(n));
  }
  buffer_.clear();
}

void OutputFile::finish() {
  flush();
  if (renames_ && (fsync(fd_) != 0 || rename(partial_.c_str(), target_.c_str()) != 0))
    throw Error("--output-file " + target_.string() + ": cannot be completed: " + std::strerror(errno) +
                "; the results are in " + partial_.string());
  close(fd_);
  fd_ = -1;
  if (renames_) sync_folder(folder_of(target_));
}

}  // namespace penstock
