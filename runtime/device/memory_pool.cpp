#include "runtime/device/memory_pool.h"

#include <algorithm>
#include <iterator>
#include <limits>

namespace penstock {
namespace {

/// `bytes` rounded up, at least one unit; what cannot be rounded stays as it is, too large for any device.
size_t rounded(size_t bytes, size_t unit) {
  if (bytes > std::numeric_limits<size_t>::max() - unit) return bytes;
  return std::max(unit, (bytes + unit - 1) / unit * unit);
}

/// What to take for a piece: room for several of its size, where one alone would leave more than a 32nd of
/// its segment to pieces that may never come. A model has hundreds of experts of 5.5 MiB.
size_t segment_for(size_t bytes) {
  constexpr size_t kMostShared = 8;
  const size_t alone = rounded(bytes, MemoryPool::kSegmentUnit);
  if (bytes > 32 * MemoryPool::kSegmentUnit) return alone;
  for (size_t count = 1; count <= kMostShared; ++count) {
    const size_t segment = rounded(count * bytes, MemoryPool::kSegmentUnit);
    if ((segment - count * bytes) * 32 <= segment) return segment;
  }
  return alone;
}

}  // namespace

MemoryPool::MemoryPool(std::function<void*(size_t)> take, std::function<void(void*)> give_back)
    : take_(std::move(take)), give_back_(std::move(give_back)) {}

MemoryPool::~MemoryPool() {
  for (const auto& [address, piece] : pieces_)
    if (piece.begins_segment) give_back_(address);
}

void* MemoryPool::allocate(size_t bytes) {
  const std::lock_guard lock(mutex_);
  bytes = rounded(bytes, kAlignment);
  auto fit = free_.lower_bound({bytes, nullptr});
  if (fit == free_.end()) {
    size_t segment = segment_for(bytes);
    auto* address = static_cast<char*>(take_(segment));
    if (address == nullptr) {
      trim_locked();
      segment = rounded(bytes, kSegmentUnit);
      address = static_cast<char*>(take_(segment));
    }
    if (address == nullptr) return nullptr;
    reserved_ += segment;
    pieces_.emplace(address, Piece{segment, true, true});
    fit = free_.emplace(segment, address).first;
  }
  const auto piece = pieces_.find(fit->second);
  set_free(piece, false);
  if (const size_t rest = piece->second.bytes - bytes; rest > 0) {
    piece->second.bytes = bytes;
    set_free(pieces_.emplace(piece->first + bytes, Piece{rest, false, false}).first, true);
  }
  in_use_ += bytes;
  return piece->first;
}

void MemoryPool::free(void* memory) {
  const std::lock_guard lock(mutex_);
  auto piece = pieces_.find(static_cast<char*>(memory));
  ensure(piece != pieces_.end() && !piece->second.free, "memory that is freed was allocated here");
  in_use_ -= piece->second.bytes;
  set_free(piece, true);
  join_with_next(piece);
  if (!piece->second.begins_segment) join_with_next(std::prev(piece));
}

void MemoryPool::trim() {
  const std::lock_guard lock(mutex_);
  trim_locked();
}

void MemoryPool::trim_locked() {
  for (auto piece = pieces_.begin(); piece != pieces_.end();) {
    const auto next = std::next(piece);
    if (piece->second.free && piece->second.begins_segment &&
        (next == pieces_.end() || next->second.begins_segment)) {
      free_.erase({piece->second.bytes, piece->first});
      reserved_ -= piece->second.bytes;
      give_back_(piece->first);
      pieces_.erase(piece);
    }
    piece = next;
  }
}

MemoryUse MemoryPool::use() const {
  const std::lock_guard lock(mutex_);
  return {in_use_, reserved_, free_.empty() ? 0 : free_.rbegin()->first};
}

void MemoryPool::set_free(Pieces::iterator piece, bool free) {
  piece->second.free = free;
  if (free)
    free_.emplace(piece->second.bytes, piece->first);
  else
    free_.erase({piece->second.bytes, piece->first});
}

/// Two free pieces of one segment become one.
void MemoryPool::join_with_next(Pieces::iterator piece) {
  const auto next = std::next(piece);
  if (next == pieces_.end() || next->second.begins_segment || !next->second.free || !piece->second.free)
    return;
  set_free(piece, false);
  set_free(next, false);
  piece->second.bytes += next->second.bytes;
  pieces_.erase(next);
  set_free(piece, true);
}

}  // namespace penstock
