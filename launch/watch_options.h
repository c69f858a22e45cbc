// How a job is watched: the flags of metrics, page, trace and log.
#pragma once

#include <filesystem>
#include <optional>
#include <string>
#include <vector>

namespace CLI {
class App;
}

namespace penstock {

struct WatchOptions {
  std::optional<uint16_t> port;  ///< of the page and /metrics; none: nothing listens
  std::string host = "127.0.0.1";
  std::vector<std::string> aliases;  ///< "vllm"
  double interval_seconds = 1;       ///< between a stage's reports; 0: none, and no request times
  double linger_seconds = 0;         ///< how long the page outlives the job
  std::filesystem::path trace;       ///< empty: none
  std::string guard;                 ///< goals; empty: nobody watches them
  std::string alert_url;             ///< empty: no alerts
  std::string log_level = "info";
  std::string log_format = "text";
};

void add_watch_flags(CLI::App& app, WatchOptions& options);

/// Sets this process's log as the options say.
void apply_log_options(const WatchOptions& options);

}  // namespace penstock
