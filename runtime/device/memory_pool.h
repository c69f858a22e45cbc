// A caching allocator's book-keeping: large segments are taken from a device and handed out in pieces; pieces
// that come back are kept for the next who asks. Best fit, neighbours joined. Plain host code: it never looks
// into the memory. Any thread.
#pragma once

#include <cstddef>
#include <functional>
#include <map>
#include <mutex>
#include <set>
#include <utility>

#include "runtime/device/device.h"

namespace penstock {

class MemoryPool {
 public:
  static constexpr size_t kAlignment = 256;
  /// Segments are multiples of this. Small pieces share one of this size; pieces that fit badly into one
  /// share a larger one with others of their size.
  static constexpr size_t kSegmentUnit = size_t{2} << 20;

  /// `take` returns null when the device has no more; `give_back` gets what `take` returned.
  MemoryPool(std::function<void*(size_t)> take, std::function<void(void*)> give_back);
  ~MemoryPool();
  MemoryPool(const MemoryPool&) = delete;
  MemoryPool& operator=(const MemoryPool&) = delete;

  /// Null when neither the pool nor the device has `bytes` in one piece.
  void* allocate(size_t bytes);
  /// `memory` came from allocate and was not freed since.
  void free(void* memory);
  /// Gives back the segments of which nothing is in use.
  void trim();
  MemoryUse use() const;

 private:
  struct Piece {
    size_t bytes = 0;
    bool free = false;
    bool begins_segment = false;
  };
  using Pieces = std::map<char*, Piece>;  // by address; together they are the segments, without gaps

  void trim_locked();
  void set_free(Pieces::iterator piece, bool free);
  void join_with_next(Pieces::iterator piece);

  std::function<void*(size_t)> take_;
  std::function<void(void*)> give_back_;
  mutable std::mutex mutex_;
  Pieces pieces_;
  std::set<std::pair<size_t, char*>> free_;  // by size, then address
  size_t reserved_ = 0;
  size_t in_use_ = 0;
};

}  // namespace penstock
