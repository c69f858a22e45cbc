#include "runtime/requests/journal/segment.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <boost/crc.hpp>
#include <cerrno>
#include <cstdio>
#include <cstring>

#include "runtime/base/error.h"

namespace penstock {
namespace fs = std::filesystem;
namespace {

constexpr std::string_view kMagic = "PNSTKJ1\n";
constexpr size_t kFrame = 8;  // length and checksum
constexpr size_t kWindow = size_t{256} << 10;

using Crc32c = boost::crc_optimal<32, 0x1EDC6F41, 0xFFFFFFFF, 0xFFFFFFFF, true, true>;

void append_u32(std::string& out, uint32_t value) {
  for (int shift = 0; shift < 32; shift += 8) out += static_cast<char>((value >> shift) & 0xFFU);
}

uint32_t read_u32(std::string_view bytes) {
  uint32_t value = 0;
  for (size_t i = 0; i < 4; ++i)
    value |= static_cast<uint32_t>(static_cast<unsigned char>(bytes[i])) << (8 * i);
  return value;
}

/// The checksum covers the length too.
uint32_t checksum(std::string_view length, std::string_view payload) {
  Crc32c crc;
  crc.process_bytes(length.data(), length.size());
  crc.process_bytes(payload.data(), payload.size());
  return crc.checksum();
}

}  // namespace

uint32_t crc32c(std::string_view bytes) {
  return checksum({}, bytes);
}

void append_record(std::string& out, std::string_view payload) {
  if (payload.size() > kLongestRecord)
    throw Error("a record of the journal: expected at most " + std::to_string(kLongestRecord) +
                " bytes, found " + std::to_string(payload.size()) + "; ask for fewer choices in one row");
  const size_t begin = out.size();
  append_u32(out, static_cast<uint32_t>(payload.size()));
  append_u32(out, checksum(std::string_view(out).substr(begin, 4), payload));
  out += payload;
}

fs::path segment_path(const fs::path& folder, uint32_t number) {
  char name[32];
  std::snprintf(name, sizeof name, "%06u.segment", number);
  return folder / name;
}

SegmentWriter::SegmentWriter(const fs::path& folder, uint32_t number)
    : path_(segment_path(folder, number)),
      file_(open(path_.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_APPEND | O_CLOEXEC, 0666)) {
  if (!file_.is_open()) throw Error(path_.string() + ": cannot be created: " + std::strerror(errno));
  sync_folder(folder);
}

void SegmentWriter::write(std::string_view records) {
  if (bytes_ == 0) {
    write_all(file_, kMagic, path_);
    bytes_ = kMagic.size();
  }
  write_all(file_, records, path_);
  sync_file(file_, path_);
  bytes_ += records.size();
}

SegmentReader::SegmentReader(fs::path path)
    : path_(std::move(path)), file_(open(path_.c_str(), O_RDONLY | O_CLOEXEC)) {
  if (!file_.is_open()) throw Error(path_.string() + ": cannot be opened: " + std::strerror(errno));
  if (load(0, kMagic.size()) && std::string_view(window_).substr(0, kMagic.size()) == kMagic)
    at_ = kMagic.size();
}

uint64_t SegmentReader::file_bytes() const {
  struct stat info {};
  if (fstat(file_.get(), &info) != 0) throw Error(path_.string() + ": " + std::strerror(errno));
  return static_cast<uint64_t>(info.st_size);
}

// The window begins before `offset`: rows are asked for in the input's order, which is nearly that of the
// file.
bool SegmentReader::load(uint64_t offset, size_t bytes) {
  if (offset >= window_begin_ && offset + bytes <= window_begin_ + window_.size()) return true;
  if (offset + bytes > file_bytes()) return false;  // also keeps a broken length from asking for memory
  window_begin_ = offset - std::min<uint64_t>(offset, kWindow / 4);
  window_.resize(std::max(kWindow, static_cast<size_t>(offset - window_begin_) + bytes));
  size_t have = 0;
  while (have < window_.size()) {
    const ssize_t n = pread(file_.get(), window_.data() + have, window_.size() - have,
                            static_cast<off_t>(window_begin_ + have));
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) throw Error(path_.string() + ": reading failed: " + std::strerror(errno));
    if (n == 0) break;
    have += static_cast<size_t>(n);
  }
  window_.resize(have);
  return offset + bytes <= window_begin_ + have;
}

bool SegmentReader::record_at(uint64_t offset, std::string_view& payload) {
  if (!load(offset, kFrame)) return false;
  std::string_view frame = std::string_view(window_).substr(offset - window_begin_, kFrame);
  const uint32_t length = read_u32(frame);
  if (length > kLongestRecord || !load(offset, kFrame + length)) return false;
  const std::string_view record = std::string_view(window_).substr(offset - window_begin_, kFrame + length);
  payload = record.substr(kFrame);
  return checksum(record.substr(0, 4), payload) == read_u32(record.substr(4));
}

bool SegmentReader::next(std::string_view& payload) {
  if (at_ == 0 || !record_at(at_, payload)) return false;
  record_begin_ = at_;
  at_ += kFrame + payload.size();
  return true;
}

std::string_view SegmentReader::at(uint64_t offset) {
  std::string_view payload;
  if (!record_at(offset, payload))
    throw Error(path_.string() + ": the record at byte " + std::to_string(offset) +
                " was whole before and is not any more; the disk may be failing");
  return payload;
}

}  // namespace penstock
