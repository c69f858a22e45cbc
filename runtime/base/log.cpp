#include "runtime/base/log.h"

#include <spdlog/pattern_formatter.h>
#include <spdlog/sinks/stdout_sinks.h>
#include <spdlog/spdlog.h>

#include <mutex>
#include <nlohmann/json.hpp>
#include <optional>

namespace penstock::log {
namespace {

// This process's one log; every rank is a process.
struct Log {
  std::shared_ptr<spdlog::logger> logger = spdlog::stderr_logger_mt("penstock");
  std::mutex mutex;  // guards what follows
  Format format = Format::text;
  std::optional<int> rank;
  std::string host;

  Log() {
    logger->flush_on(spdlog::level::debug);
    choose_pattern();
  }

  void choose_pattern() {
    if (format == Format::json) {
      logger->set_pattern("%v");
      return;
    }
    std::string who;
    if (rank)  // in a pattern % begins a field
      for (const char c : " rank " + std::to_string(*rank) + " " + host + ":")
        who += c == '%' ? std::string("%%") : std::string(1, c);
    logger->set_pattern("%H:%M:%S" + who + " %v");
  }
};

Log& the_log() {
  static Log log;
  return log;
}

spdlog::level::level_enum spd(Level level) {
  switch (level) {
    case Level::debug:
      return spdlog::level::debug;
    case Level::info:
      return spdlog::level::info;
    case Level::warning:
      return spdlog::level::warn;
    case Level::error:
      return spdlog::level::err;
  }
  return spdlog::level::info;
}

/// RFC 3339, in UTC: log collectors expect it.
std::string utc_now() {
  timespec now{};
  clock_gettime(CLOCK_REALTIME, &now);
  tm parts{};
  gmtime_r(&now.tv_sec, &parts);
  char text[64];
  const size_t length = strftime(text, sizeof text, "%Y-%m-%dT%H:%M:%S", &parts);
  std::snprintf(text + length, sizeof text - length, ".%03ldZ", now.tv_nsec / 1000000);
  return text;
}

std::string json_line(const std::optional<int>& rank, const std::string& host, Level level,
                      std::string_view text) {
  constexpr const char* kNames[] = {"debug", "info", "warning", "error"};
  nlohmann::ordered_json line{{"time", utc_now()}, {"level", kNames[static_cast<int>(level)]}};
  if (rank) {
    line["rank"] = *rank;
    line["host"] = host;
  }
  line["message"] = text;
  // Messages quote inputs, which may hold any bytes.
  return line.dump(-1, ' ', false, nlohmann::ordered_json::error_handler_t::replace);
}

}  // namespace

void set_identity(int rank, const std::string& host) {
  Log& log = the_log();
  const std::lock_guard lock(log.mutex);
  log.rank = rank;
  log.host = host;
  log.choose_pattern();
}

void configure(Level level, Format format) {
  Log& log = the_log();
  const std::lock_guard lock(log.mutex);
  log.format = format;
  log.logger->set_level(spd(level));
  log.choose_pattern();
}

bool is_json() {
  Log& log = the_log();
  const std::lock_guard lock(log.mutex);
  return log.format == Format::json;
}

void write(Level level, std::string_view text) {
  Log& log = the_log();
  std::string line;
  {
    const std::lock_guard lock(log.mutex);
    if (log.format == Format::json) line = json_line(log.rank, log.host, level, text);
  }
  log.logger->log(spd(level), "{}", line.empty() ? text : std::string_view(line));
}

}  // namespace penstock::log
