#include "runtime/requests/journal/journal_lock.h"

#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <fstream>
#include <utility>

#include "runtime/base/error.h"
#include "runtime/base/log.h"

namespace penstock {
namespace {

/// "machine\nhost, pid 123\nbeats\n", or nothing.
struct Holder {
  std::string machine;
  std::string name;
  std::string beats;
};

Holder read_holder(const std::filesystem::path& path) {
  // Opened anew each time: network file systems then fetch what others wrote.
  std::ifstream file(path);
  Holder holder;
  std::getline(file, holder.machine);
  std::getline(file, holder.name);
  std::getline(file, holder.beats);
  return holder;
}

std::string this_host() {
  char host[256] = "";
  gethostname(host, sizeof host - 1);
  return host;
}

}  // namespace

std::string this_machine() {
  std::ifstream file("/proc/sys/kernel/random/boot_id");
  std::string id;
  std::getline(file, id);
  return id.empty() ? this_host() : id;
}

JournalLock::JournalLock(const std::filesystem::path& file, std::string machine, LockTimes times)
    : path_(file), times_(std::move(times)), file_(open(file.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0666)) {
  if (!times_.wait) times_.wait = [](std::chrono::milliseconds time) { std::this_thread::sleep_for(time); };
  if (!file_.is_open())
    throw UsageError(path_.string() + ": the journal's lock cannot be opened: " + std::strerror(errno) +
                     "; name an --output-file in a folder that may be written");
  take(machine);
  holder_ = machine + "\nhost " + this_host() + ", pid " + std::to_string(getpid()) + "\n";
  write(holder_ + "0\n");
  thread_ = std::thread([this] { beat_until_stopped(); });
}

JournalLock::~JournalLock() {
  if (!thread_.joinable()) return;
  {
    const std::lock_guard lock(mutex_);
    stop_ = true;
    changed_.notify_all();
  }
  thread_.join();
  (void)!ftruncate(file_.get(), 0);
}

void JournalLock::take(const std::string& machine) {
  const auto refuse = [this](const std::string& name) {
    throw UsageError(path_.string() + ": another job writes this journal: " +
                     (name.empty() ? "one that has just begun" : name) +
                     "; wait for it, stop it, or name another --output-file");
  };
  const Holder first = read_holder(path_);
  if (flock(file_.get(), LOCK_EX | LOCK_NB) != 0 && errno == EWOULDBLOCK) refuse(first.name);
  // The kernel gave the lock, so a holder of this machine is dead. One of another machine may live where
  // flock does not reach it.
  if (first.machine.empty() || first.machine == machine) return;
  const std::chrono::duration<double> watched = times_.looks * (times_.heartbeat / 4);
  log::info(path_.string() + ": held by " + first.name + ", on another machine; watching it for up to " +
            std::to_string(static_cast<int>(watched.count())) + " s to see whether that job still runs");
  for (int look = 0; look < times_.looks; ++look) {
    times_.wait(times_.heartbeat / 4);
    const Holder now = read_holder(path_);
    if (now.machine.empty()) return;
    if (now.machine != first.machine || now.name != first.name || now.beats != first.beats) refuse(now.name);
  }
}

// A failure is the disk's, and the journal itself will tell: the lock is held all the same.
void JournalLock::write(const std::string& text) {
  // In this order a reader always finds a whole holder: what a longer text leaves behind stands on lines of
  // its own.
  (void)!pwrite(file_.get(), text.data(), text.size(), 0);
  (void)!ftruncate(file_.get(), static_cast<off_t>(text.size()));
}

void JournalLock::beat_until_stopped() {
  std::unique_lock lock(mutex_);
  for (uint64_t beats = 1; !changed_.wait_for(lock, times_.heartbeat, [this] { return stop_; }); ++beats)
    write(holder_ + std::to_string(beats) + "\n");
}

}  // namespace penstock
