#include "runtime/requests/journal/durable_file.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <utility>

#include "runtime/base/error.h"

namespace penstock {
namespace fs = std::filesystem;
namespace {

[[noreturn]] void fail(const fs::path& path, const std::string& what) {
  const int reason = errno;
  const bool full = reason == ENOSPC || reason == EDQUOT;
  throw Error(
      path.string() + ": " + what + " failed: " + std::strerror(reason) +
      (full ? "; free some space and type the same command again: no row that was saved is lost" : ""));
}

}  // namespace

FileHandle::~FileHandle() {
  if (fd_ >= 0) close(fd_);
}

FileHandle::FileHandle(FileHandle&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}

FileHandle& FileHandle::operator=(FileHandle&& other) noexcept {
  std::swap(fd_, other.fd_);
  return *this;
}

void write_all(const FileHandle& file, std::string_view bytes, const fs::path& path) {
  while (!bytes.empty()) {
    const ssize_t n = write(file.get(), bytes.data(), bytes.size());
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) fail(path, "writing");
    bytes.remove_prefix(static_cast<size_t>(n));
  }
}

void sync_file(const FileHandle& file, const fs::path& path) {
  if (fdatasync(file.get()) != 0) fail(path, "making it durable");
}

void sync_folder(const fs::path& folder) {
  const FileHandle handle(open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  // Some network file systems cannot sync a folder and say so; they make names durable at once.
  if (!handle.is_open() || (fsync(handle.get()) != 0 && errno != EINVAL && errno != ENOTSUP))
    fail(folder, "making its names durable");
}

void replace_file(const fs::path& path, std::string_view content) {
  const fs::path fresh = path.string() + ".new";
  {
    const FileHandle file(open(fresh.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666));
    if (!file.is_open()) fail(fresh, "creating it");
    write_all(file, content, fresh);
    sync_file(file, fresh);
  }
  if (rename(fresh.c_str(), path.c_str()) != 0) fail(path, "replacing it");
  sync_folder(folder_of(path));
}

fs::path behind_link(const fs::path& path) {
  std::error_code none;
  if (!fs::is_symlink(path, none)) return path;
  const fs::path file = fs::canonical(path, none);
  return none ? path : file;
}

fs::path folder_of(const fs::path& path) {
  const fs::path parent = path.parent_path();
  return parent.empty() ? fs::path(".") : parent;
}

}  // namespace penstock
