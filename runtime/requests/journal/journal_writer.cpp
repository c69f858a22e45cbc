#include "runtime/requests/journal/journal_writer.h"

#include <utility>

#include "runtime/base/error.h"

namespace penstock {

JournalWriter::JournalWriter(std::filesystem::path folder, uint32_t first_segment, CommitLimits limits,
                             CommitListener committed)
    : folder_(std::move(folder)),
      limits_(limits),
      committed_(std::move(committed)),
      next_segment_(first_segment),
      thread_([this] { commit_until_stopped(); }) {}

JournalWriter::~JournalWriter() {
  {
    const std::lock_guard lock(mutex_);
    stop_ = true;
    changed_.notify_all();
  }
  thread_.join();
}

void JournalWriter::rethrow_failure() const {
  if (failure_) std::rethrow_exception(failure_);
}

void JournalWriter::append(const proto::JournalRecord& record) {
  std::string framed;
  append_record(framed, record.SerializeAsString());
  std::unique_lock lock(mutex_);
  changed_.wait(lock, [this] { return pending_.size() < 2 * limits_.pending_bytes || failure_; });
  rethrow_failure();
  if (pending_.empty()) pending_since_ = std::chrono::steady_clock::now();
  const bool wake = pending_.empty() || pending_.size() + framed.size() >= limits_.pending_bytes;
  pending_ += framed;
  ++appended_;
  if (wake) changed_.notify_all();
}

void JournalWriter::sync() {
  std::unique_lock lock(mutex_);
  const uint64_t mine = appended_;
  hurry_ = durable_ < mine;
  changed_.notify_all();
  changed_.wait(lock, [&] { return durable_ >= mine || failure_; });
  rethrow_failure();
}

void JournalWriter::commit_until_stopped() {
  std::unique_lock lock(mutex_);
  for (;;) {
    changed_.wait(lock, [this] { return !pending_.empty() || stop_; });
    changed_.wait_until(lock, pending_since_ + limits_.delay,
                        [this] { return hurry_ || stop_ || pending_.size() >= limits_.pending_bytes; });
    if (pending_.empty()) return;  // stopped
    const std::string records = std::exchange(pending_, {});
    const uint64_t up_to = appended_;
    hurry_ = false;
    lock.unlock();
    std::exception_ptr failure;
    try {
      const auto begin = std::chrono::steady_clock::now();
      write(records);
      if (committed_) committed_(std::chrono::steady_clock::now() - begin);
    } catch (...) {
      failure = std::current_exception();
    }
    lock.lock();
    if (failure) {
      // A record may be torn now, and nothing after it would be found: this journal takes no more.
      failure_ = failure;
      changed_.notify_all();
      return;
    }
    durable_ = up_to;
    changed_.notify_all();
  }
}

void JournalWriter::write(const std::string& records) {
  if (!segment_ || segment_->bytes() >= limits_.segment_bytes) {
    segment_.reset();
    segment_.emplace(folder_, next_segment_++);
  }
  segment_->write(records);
}

}  // namespace penstock
