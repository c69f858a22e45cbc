// One job at a time writes a journal. The lock is a file that names its holder and is held by flock, which
// the kernel lets go when the holder's process ends, however it ends. On another machine, where flock may not
// reach, the holder's heartbeat in the file tells: a lock whose heartbeat stands still is a dead job's.
#pragma once

#include <chrono>
#include <condition_variable>
#include <filesystem>
#include <functional>
#include <mutex>
#include <string>
#include <thread>

#include "runtime/requests/journal/durable_file.h"

namespace penstock {

struct LockTimes {
  std::chrono::milliseconds heartbeat{5000};
  /// A lock of another machine is looked at so often, four times a heartbeat: when it never changes its
  /// holder is dead. Counted in looks, so that a process that was stopped meanwhile does not take the time it
  /// slept for the holder's silence.
  int looks = 24;
  /// Waits between two looks: sleeps if none is given.
  std::function<void(std::chrono::milliseconds)> wait{};
};

class JournalLock {
 public:
  /// `machine`: differs between machines that do not see each other's processes. Throws UsageError naming
  /// the holder when another job holds the lock; looks at it `times.looks` times to learn whether it lives.
  JournalLock(const std::filesystem::path& file, std::string machine, LockTimes times);
  /// Lets go: the file stays, and names nobody.
  ~JournalLock();
  JournalLock(const JournalLock&) = delete;
  JournalLock& operator=(const JournalLock&) = delete;

 private:
  void take(const std::string& machine);
  void write(const std::string& text);
  void beat_until_stopped();

  std::filesystem::path path_;
  LockTimes times_;
  FileHandle file_;
  std::string holder_;

  std::mutex mutex_;
  std::condition_variable changed_;
  bool stop_ = false;
  std::thread thread_;
};

/// This boot of this machine, as far as its processes share files and locks.
std::string this_machine();

}  // namespace penstock
