// One safetensors file: an 8-byte little-endian header length, a JSON header naming each tensor's dtype,
// shape and byte range, then the data. https://huggingface.co/docs/safetensors. Nothing in the header is
// believed before it has been checked against the size of the file.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <unordered_map>
#include <vector>

namespace penstock {

class SafetensorsFile {
 public:
  struct Entry {
    std::string dtype;  // as the file spells it: "F32", "BF16"
    std::vector<int64_t>
        shape;            // product times element size is the length of the range, for dtypes known here
    uint64_t offset = 0;  // of the first byte, from the start of the file
    uint64_t bytes = 0;
  };

  /// Opens the file and checks its header. Throws UsageError naming the file, the tensor, expected and found
  /// bytes.
  explicit SafetensorsFile(std::filesystem::path path);
  ~SafetensorsFile();
  SafetensorsFile(SafetensorsFile&& other) noexcept;
  SafetensorsFile(const SafetensorsFile&) = delete;
  SafetensorsFile& operator=(const SafetensorsFile&) = delete;
  SafetensorsFile& operator=(SafetensorsFile&&) = delete;

  const std::filesystem::path& path() const { return path_; }
  const std::unordered_map<std::string, Entry>& entries() const { return entries_; }

  /// Reads exactly `bytes` at `offset` of the file. Thread-safe. Throws Error when the file has become
  /// shorter.
  void read(uint64_t offset, void* to, uint64_t bytes) const;
  /// Asks the system to fetch that range, and does not wait for it. Thread-safe.
  void announce(uint64_t offset, uint64_t bytes) const;

 private:
  void parse_header(uint64_t file_bytes);

  std::filesystem::path path_;
  int fd_ = -1;
  std::unordered_map<std::string, Entry> entries_;
};

}  // namespace penstock
