#include "runtime/base/log.h"

#include <spdlog/sinks/stdout_sinks.h>
#include <spdlog/spdlog.h>

namespace penstock::log {
namespace {

// spdlog's default logger is this process's one log; every rank is a process.
spdlog::logger& logger() {
  static const auto made = [] {
    auto l = spdlog::stderr_logger_mt("penstock");
    l->set_pattern("%H:%M:%S %v");
    l->flush_on(spdlog::level::info);
    return l;
  }();
  return *made;
}

spdlog::level::level_enum spd(Level level) {
  switch (level) {
    case Level::info:
      return spdlog::level::info;
    case Level::warning:
      return spdlog::level::warn;
    case Level::error:
      return spdlog::level::err;
  }
  return spdlog::level::info;
}

}  // namespace

void set_identity(int rank, const std::string& host) {
  logger().set_pattern("%H:%M:%S rank " + std::to_string(rank) + " " + host + ": %v");
}

void write(Level level, std::string_view text) {
  logger().log(spd(level), "{}", text);
}

}  // namespace penstock::log
