#include "runtime/requests/journal/journal_index.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <cstring>

#include "runtime/base/error.h"

namespace penstock {
namespace fs = std::filesystem;
namespace {

constexpr size_t kOpenSegments = 16;
constexpr int kOffsetBits = 40;  // a segment is far shorter: it ends with the record that fills it

uint64_t place_of(uint32_t segment, uint64_t offset) {
  return (uint64_t{segment} << kOffsetBits) | offset;
}

}  // namespace

std::vector<uint32_t> segments_of(const fs::path& folder) {
  std::vector<uint32_t> numbers;
  std::error_code trouble;
  for (const fs::directory_entry& entry : fs::directory_iterator(folder, trouble)) {
    if (entry.path().extension() != ".segment") continue;
    const std::string name = entry.path().stem().string();
    uint32_t number = 0;
    const auto [end, fault] = std::from_chars(name.data(), name.data() + name.size(), number);
    if (fault == std::errc{} && end == name.data() + name.size() && number > 0 && number < 1U << 24)
      numbers.push_back(number);
  }
  if (trouble) throw Error(folder.string() + ": cannot be listed: " + trouble.message());
  std::sort(numbers.begin(), numbers.end());
  return numbers;
}

JournalIndex::JournalIndex(fs::path folder, uint64_t rows)
    : folder_(std::move(folder)), segments_(segments_of(folder_)) {
  for (const uint32_t number : segments_) read_segment(number, rows);
  std::erase_if(cut_, [this](const auto& cut) { return finished(cut.first); });
}

void JournalIndex::read_segment(uint32_t number, uint64_t rows) {
  const fs::path path = segment_path(folder_, number);
  SegmentReader reader(path);
  std::string_view payload;
  proto::JournalRecord record;
  while (reader.next(payload)) {
    if (!record.ParseFromArray(payload.data(), static_cast<int>(payload.size()))) continue;
    const uint64_t place = place_of(number, reader.record_begin());
    if (record.has_cut() && record.cut().number() < rows) {
      cut_[record.cut().number()] = place;
    } else if (record.has_finished() && record.finished().number() < rows) {
      const uint64_t row = record.finished().number();
      if (row >= places_.size()) places_.resize(std::min(rows, std::max(row + 1, 2 * row)));
      if (places_[row] != 0) continue;
      places_[row] = place;
      ++finished_rows_;
      failed_rows_ += record.finished().failed() ? 1 : 0;
    }
  }
  const uint64_t bytes = reader.file_bytes();
  if (reader.whole_bytes() < bytes) torn_.push_back({path, reader.whole_bytes(), bytes});
}

proto::JournalRecord JournalIndex::record_at(uint64_t place) {
  const auto segment = static_cast<uint32_t>(place >> kOffsetBits);
  if (open_.count(segment) == 0) {
    if (open_.size() >= kOpenSegments) open_.erase(open_.begin());
    open_[segment] = std::make_unique<SegmentReader>(segment_path(folder_, segment));
  }
  const std::string_view payload = open_[segment]->at(place & ((uint64_t{1} << kOffsetBits) - 1));
  proto::JournalRecord record;
  ensure(record.ParseFromArray(payload.data(), static_cast<int>(payload.size())),
         "a record that was read before");
  return record;
}

std::optional<proto::CutRow> JournalIndex::cut(uint64_t row) {
  const auto found = cut_.find(row);
  if (found == cut_.end()) return std::nullopt;
  return std::move(*record_at(found->second).mutable_cut());
}

void JournalIndex::for_each_finished(const std::function<void(const proto::FinishedRow&)>& visit) {
  for (const uint64_t place : places_)
    if (place != 0) visit(record_at(place).finished());
}

void cut_torn_ends(const std::vector<TornSegment>& torn) {
  for (const TornSegment& segment : torn) {
    const FileHandle file(open(segment.path.c_str(), O_WRONLY | O_CLOEXEC));
    if (!file.is_open() || ftruncate(file.get(), static_cast<off_t>(segment.whole_bytes)) != 0)
      throw Error(segment.path.string() + ": cutting its torn end failed: " + std::strerror(errno));
    sync_file(file, segment.path);
  }
}

}  // namespace penstock
