#include "runtime/model/safetensors.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstring>
#include <utility>

#include "runtime/base/error.h"
#include "runtime/base/json_file.h"

namespace penstock {
namespace {

constexpr uint64_t kLargestHeader = 100'000'000;  // the format's own limit

/// Bytes of one element, 0 for a dtype that is not known here (and so cannot be asked for).
uint64_t element_bytes(const std::string& dtype) {
  if (dtype == "F64" || dtype == "I64" || dtype == "U64") return 8;
  if (dtype == "F32" || dtype == "I32" || dtype == "U32") return 4;
  if (dtype == "F16" || dtype == "BF16" || dtype == "I16" || dtype == "U16") return 2;
  if (dtype == "I8" || dtype == "U8" || dtype == "BOOL" || dtype == "F8_E4M3" || dtype == "F8_E5M2") return 1;
  return 0;
}

/// False when the product does not fit.
bool multiply(uint64_t& product, uint64_t by) {
  return !__builtin_mul_overflow(product, by, &product);
}

}  // namespace

SafetensorsFile::SafetensorsFile(std::filesystem::path path) : path_(std::move(path)) {
  fd_ = ::open(path_.c_str(), O_RDONLY | O_CLOEXEC);
  if (fd_ < 0) throw UsageError(path_.string() + ": cannot be opened: " + std::strerror(errno));
  struct stat info {};
  try {
    if (::fstat(fd_, &info) != 0 || !S_ISREG(info.st_mode))
      throw UsageError(path_.string() + ": expected a regular file");
    parse_header(static_cast<uint64_t>(info.st_size));
  } catch (...) {
    ::close(fd_);
    throw;
  }
}

SafetensorsFile::~SafetensorsFile() {
  if (fd_ >= 0) ::close(fd_);
}

SafetensorsFile::SafetensorsFile(SafetensorsFile&& other) noexcept
    : path_(std::move(other.path_)), fd_(std::exchange(other.fd_, -1)), entries_(std::move(other.entries_)) {}

void SafetensorsFile::parse_header(uint64_t file_bytes) {
  const std::string file = path_.string();
  std::array<unsigned char, 8> length_bytes{};
  if (file_bytes < length_bytes.size())
    throw UsageError(file + ": truncated: expected a header length of 8 bytes, found a file of " +
                     std::to_string(file_bytes));
  read(0, length_bytes.data(), length_bytes.size());
  uint64_t length = 0;
  for (size_t i = 8; i-- > 0;) length = (length << 8) | length_bytes[i];
  if (length > kLargestHeader)
    throw UsageError(file + ": expected a safetensors header of at most 100000000 bytes, found a length of " +
                     std::to_string(length) + "; is this a safetensors file?");
  if (length > file_bytes - 8)
    throw UsageError(file + ": truncated: expected a header of " + std::to_string(length) + " bytes, found " +
                     std::to_string(file_bytes - 8));
  std::string text(length, '\0');
  read(8, text.data(), length);

  const nlohmann::json header = parse_json(text, file + ": safetensors header");
  if (!header.is_object()) throw UsageError(file + ": expected a safetensors header that is a JSON object");
  const uint64_t data_start = 8 + length;
  const uint64_t data_bytes = file_bytes - data_start;
  for (const auto& [name, value] : header.items()) {
    if (name == "__metadata__") continue;
    const std::string where = file + ": " + name + ": ";
    Entry entry;
    uint64_t begin = 0;
    uint64_t end = 0;
    uint64_t expected = 1;
    bool fits = true;
    try {
      entry.dtype = value.at("dtype").get<std::string>();
      const auto& offsets = value.at("data_offsets");
      for (const auto& dim : value.at("shape")) {
        if (!dim.is_number_unsigned()) throw UsageError(where + "expected a shape of whole numbers");
        fits = fits && dim.get<uint64_t>() < (uint64_t{1} << 48) && multiply(expected, dim.get<uint64_t>());
        entry.shape.push_back(dim.get<int64_t>());
      }
      if (offsets.size() != 2 || !offsets[0].is_number_unsigned() || !offsets[1].is_number_unsigned())
        throw UsageError(where + "expected two data_offsets");
      begin = offsets[0].get<uint64_t>();
      end = offsets[1].get<uint64_t>();
    } catch (const nlohmann::json::exception& e) {
      throw UsageError(where +
                       "expected dtype, shape and data_offsets in the safetensors header: " + e.what());
    }
    if (begin > end)
      throw UsageError(where + "expected data_offsets in order, found " + std::to_string(begin) + ", " +
                       std::to_string(end));
    if (end > data_bytes)
      throw UsageError(where + "truncated file: expected " + std::to_string(end) + " bytes of data, found " +
                       std::to_string(data_bytes) + "; fetch the file again");
    const uint64_t element = element_bytes(entry.dtype);
    if (element != 0 && (!fits || !multiply(expected, element) || expected != end - begin))
      throw UsageError(where + "expected " + (fits ? std::to_string(expected) : "2^64 or more") +
                       " bytes for its shape and dtype " + entry.dtype + ", found " +
                       std::to_string(end - begin));
    entry.offset = data_start + begin;
    entry.bytes = end - begin;
    entries_.emplace(name, std::move(entry));
  }
}

void SafetensorsFile::announce(uint64_t offset, uint64_t bytes) const {
  // Advice: a file system that takes none is read all the same.
  ::posix_fadvise(fd_, static_cast<off_t>(offset), static_cast<off_t>(bytes), POSIX_FADV_WILLNEED);
}

void SafetensorsFile::read(uint64_t offset, void* to, uint64_t bytes) const {
  auto* at = static_cast<char*>(to);
  for (uint64_t left = bytes; left > 0;) {
    const ssize_t got = ::pread(fd_, at, left, static_cast<off_t>(offset + (bytes - left)));
    if (got < 0 && errno == EINTR) continue;
    if (got <= 0)
      throw Error(path_.string() + ": expected " + std::to_string(bytes) + " bytes at " +
                  std::to_string(offset) + ", found " + std::to_string(bytes - left) + ": " +
                  (got < 0 ? std::strerror(errno) : "the file has become shorter"));
    at += got;
    left -= static_cast<uint64_t>(got);
  }
}

}  // namespace penstock
