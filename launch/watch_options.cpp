#include "launch/watch_options.h"

#include <CLI/CLI.hpp>

#include "runtime/base/log.h"

namespace penstock {

void add_watch_flags(CLI::App& app, WatchOptions& o) {
  const char* group = "Watching";
  app.add_option("--port", o.port, "Serve the page / and /metrics there while the job runs; 0: any free port")
      ->group(group);
  app.add_option("--metrics-host", o.host, "Address to listen on; 0.0.0.0 for every network of this host")
      ->group(group)
      ->capture_default_str();
  app.add_option("--metrics-alias", o.aliases, "Serve vLLM's names also under vllm:, for boards made for it")
      ->check(CLI::IsMember({"vllm"}))
      ->group(group);
  app.add_option("--metrics-interval", o.interval_seconds,
                 "Seconds between reports of a stage; 0 measures nothing but the closing table")
      ->check(CLI::Range(0.0, 3600.0))
      ->group(group)
      ->capture_default_str();
  app.add_option("--metrics-linger", o.linger_seconds,
                 "Seconds that the page stays after the job, for a last look of a scraper; a signal ends it")
      ->check(CLI::Range(0.0, 86400.0))
      ->group(group)
      ->capture_default_str();
  app.add_option("--trace", o.trace,
                 "Write what each stage does, micro-batch by micro-batch, for Perfetto and `penstock trace`")
      ->group(group);
  app.add_option(
         "--guard", o.guard,
         "Goals, such as p99_tpot_ms=500,oom=3,for=30: when one is broken for that many seconds the job "
         "steps back to smaller micro-batches or less KV cache (docs/formats.md)")
      ->group(group);
  app.add_option("--alert-url", o.alert_url, "Where the guard POSTs a JSON object for each broken goal")
      ->group(group);
  app.add_option("--log-level", o.log_level, "Messages to print: debug, info, warning, error")
      ->check(CLI::IsMember({"debug", "info", "warning", "error"}))
      ->group(group)
      ->capture_default_str();
  app.add_option("--log-format", o.log_format, "text, or json: one object a line")
      ->check(CLI::IsMember({"text", "json"}))
      ->group(group)
      ->capture_default_str();
}

void apply_log_options(const WatchOptions& options) {
  const auto level = options.log_level == "debug"     ? log::Level::debug
                     : options.log_level == "warning" ? log::Level::warning
                     : options.log_level == "error"   ? log::Level::error
                                                      : log::Level::info;
  log::configure(level, options.log_format == "json" ? log::Format::json : log::Format::text);
}

}  // namespace penstock
