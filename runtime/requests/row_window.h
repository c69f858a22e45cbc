// How far the reader may run ahead of the writer: rank 0 holds a window of rows, never the file. Counts rows
// read and not yet written, and the bytes they hold. Thread-safe.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <mutex>

namespace penstock {

class RowWindow {
 public:
  RowWindow(int64_t most_rows, int64_t most_bytes) : most_rows_(most_rows), most_bytes_(most_bytes) {}

  /// Waits until another row may come in (one always may when none is inside). False once closed.
  bool enter(int64_t bytes) {
    std::unique_lock lock(mutex_);
    changed_.wait(
        lock, [&] { return closed_ || rows_ == 0 || (rows_ < most_rows_ && bytes_ + bytes <= most_bytes_); });
    ++rows_;
    bytes_ += bytes;
    return !closed_;
  }
  /// A row inside grew: its answer is held until those before it are written.
  void grow(int64_t bytes) {
    const std::lock_guard lock(mutex_);
    bytes_ += bytes;
  }
  void leave(int64_t rows, int64_t bytes) {
    const std::lock_guard lock(mutex_);
    rows_ -= rows;
    bytes_ -= bytes;
    changed_.notify_all();
  }
  bool closed() {
    const std::lock_guard lock(mutex_);
    return closed_;
  }
  void close() {
    const std::lock_guard lock(mutex_);
    closed_ = true;
    changed_.notify_all();
  }

 private:
  const int64_t most_rows_;
  const int64_t most_bytes_;
  std::mutex mutex_;
  std::condition_variable changed_;
  int64_t rows_ = 0;
  int64_t bytes_ = 0;
  bool closed_ = false;
};

}  // namespace penstock
