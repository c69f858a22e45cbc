#include "runtime/comm/watchdog.h"

#include <cstdlib>
#include <utility>

#include "runtime/base/error.h"
#include "runtime/base/log.h"

namespace penstock {

Watchdog::Watchdog(std::chrono::milliseconds deadline, std::function<std::string()> message)
    : thread_([this, deadline, message = std::move(message)] {
        std::unique_lock lock(mutex_);
        if (changed_.wait_for(lock, deadline, [this] { return over_; })) return;
        if (const std::string text = message(); !text.empty()) log::error(text);
        std::_Exit(static_cast<int>(ExitStatus::runtime_failure));
      }) {}

Watchdog::~Watchdog() {
  {
    const std::lock_guard lock(mutex_);
    over_ = true;
    changed_.notify_all();
  }
  thread_.join();
}

}  // namespace penstock
