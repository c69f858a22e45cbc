// Files that are whole or not there. Free functions over the file system; any thread.
#pragma once

#include <filesystem>
#include <string>
#include <string_view>

namespace penstock {

/// A file descriptor that closes itself.
class FileHandle {
 public:
  FileHandle() = default;
  explicit FileHandle(int fd) : fd_(fd) {}
  ~FileHandle();
  FileHandle(FileHandle&& other) noexcept;
  FileHandle& operator=(FileHandle&& other) noexcept;
  int get() const { return fd_; }
  bool is_open() const { return fd_ >= 0; }

 private:
  int fd_ = -1;
};

/// Writes all of `bytes` at the descriptor's position. Throws Error naming `path`.
void write_all(const FileHandle& file, std::string_view bytes, const std::filesystem::path& path);
/// Makes what was written durable. Throws Error.
void sync_file(const FileHandle& file, const std::filesystem::path& path);
/// Makes the names in `folder` durable. Throws Error.
void sync_folder(const std::filesystem::path& folder);
/// Replaces `path` in one step: after a crash it holds the old content or the new one. Throws Error.
void replace_file(const std::filesystem::path& path, std::string_view content);

/// The file that `path` leads to where it is a symbolic link to one that exists; else `path`. To replace a
/// file by renaming would put an end to the link.
std::filesystem::path behind_link(const std::filesystem::path& path);

/// The folder that holds `path`: "." for a bare name.
std::filesystem::path folder_of(const std::filesystem::path& path);

}  // namespace penstock
