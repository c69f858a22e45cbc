#include "launch/guarding.h"

#include <ctime>
#include <nlohmann/json.hpp>
#include <utility>

#include "runtime/base/log.h"

namespace penstock {

Guarding::Guarding(const WatchOptions& options, const GuardSettings& start, const GuardSettings& least,
                   std::optional<FullPrecision> full, JobMetrics& metrics)
    : guard_(parse_guard(options.guard), start, least, std::move(full)), metrics_(metrics) {
  if (!options.alert_url.empty()) alerts_ = std::make_unique<AlertSender>(parse_alert_url(options.alert_url));
  metrics_.guarded(guard_.figures());
}

void Guarding::look(const JobSnapshot& snapshot) {
  const GuardSettings before = guard_.settings();
  for (const GuardEvent& event : guard_.look(snapshot)) tell(event, snapshot);
  metrics_.guarded(guard_.figures());
  if (guard_.settings() == before) return;
  const std::lock_guard lock(mutex_);
  changed_ = guard_.settings();
}

std::optional<GuardSettings> Guarding::changed() {
  const std::lock_guard lock(mutex_);
  return std::exchange(changed_, std::nullopt);
}

void Guarding::tell(const GuardEvent& event, const JobSnapshot& snapshot) {
  log::warning("guard: " + event.text);
  if (!alerts_ || event.kind == GuardEvent::Kind::trying) return;
  const nlohmann::ordered_json alert{
      {"status", event.kind == GuardEvent::Kind::holds ? "resolved" : "firing"},
      {"goal", event.goal},
      {"value", event.value},
      {"limit", event.limit},
      {"broken_seconds", event.seconds},
      {"text", "penstock " + snapshot.job.model_name + ": " + event.text},
      {"model", snapshot.job.model_name},
      {"host", snapshot.job.stages.front().host},
      {"time", std::time(nullptr)},
      {"rows_done", snapshot.figures.rows_done},
      {"settings", guard_.settings().text()}};
  alerts_->send(alert.dump(-1, ' ', false, nlohmann::ordered_json::error_handler_t::replace));
}

}  // namespace penstock
