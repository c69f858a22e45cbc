#include "launch/guarding.h"

#include <algorithm>
#include <ctime>
#include <nlohmann/json.hpp>
#include <utility>

#include "runtime/base/log.h"

namespace penstock {
namespace {

// Below this a micro-batch costs more in hand-overs than it computes, whatever the goals are.
constexpr int64_t kLeastTokensPerMicroBatch = 16;

/// What the memory of every stage's cache holds in the dtype that is computed in; nothing where it is kept so
/// already, or where a sequence of --max-model-len would have no room.
std::optional<FullPrecision> full_precision(const JobOptions& options, const ReadyRank& ready,
                                            int64_t blocks_of_a_row) {
  JobShape full = ready.shape;
  full.kv_dtype = full.dtype;
  if (ready.shape.kv_dtype == full.kv_dtype) return std::nullopt;
  int64_t blocks = ready.blocks;
  for (const StageCut& cut : full.partition)
    if (const int64_t wide = kv_bytes_per_block(full, cut, options.block_size); wide > 0)
      blocks =
          std::min(blocks, ready.blocks * kv_bytes_per_block(ready.shape, cut, options.block_size) / wide);
  if (blocks < blocks_of_a_row) {
    log::warning("--guard: the KV cache's memory holds " + std::to_string(blocks) + " blocks of " +
                 name_of(full.kv_dtype) + ", expected " + std::to_string(blocks_of_a_row) +
                 " for a sequence of --max-model-len: there is no step to full precision");
    return std::nullopt;
  }
  return FullPrecision{name_of(full.kv_dtype), blocks};
}

}  // namespace

std::unique_ptr<Guarding> make_guard(const JobOptions& options, const ReadyRank& ready, JobMetrics& metrics) {
  if (options.watch.guard.empty()) {
    if (!options.watch.alert_url.empty())
      throw UsageError("--alert-url: expected --guard with goals to alert of, found none");
    return nullptr;
  }
  if (options.watch.interval_seconds <= 0)
    throw UsageError("--guard: expected --metrics-interval above 0, which measures, found 0");
  const int64_t blocks_of_a_row = (ready.shape.max_model_len + options.block_size - 1) / options.block_size;
  const GuardSettings start{ready.shape.max_num_seqs, ready.shape.max_num_batched_tokens, ready.blocks,
                            name_of(ready.shape.kv_dtype)};
  const GuardSettings least{ready.shape.schedule.micro_batches, kLeastTokensPerMicroBatch, blocks_of_a_row,
                            start.kv_dtype};
  return std::make_unique<Guarding>(options.watch, start, least,
                                    full_precision(options, ready, blocks_of_a_row), ready.full_numerics,
                                    metrics);
}

Guarding::Guarding(const WatchOptions& options, const GuardSettings& start, const GuardSettings& least,
                   std::optional<FullPrecision> full, std::string full_numerics, JobMetrics& metrics)
    : guard_(parse_guard(options.guard), start, least, full),
      full_(std::move(full)),
      full_numerics_(std::move(full_numerics)),
      metrics_(metrics) {
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

void Guarding::steer(BatchJob& job) {
  if (job.renewing()) return;
  std::optional<GuardSettings> settings;
  {
    const std::lock_guard lock(mutex_);
    settings = std::exchange(changed_, std::nullopt);
  }
  if (!settings) return;
  if (full_ && !full_taken_ && settings->kv_dtype == full_->kv_dtype) {
    full_taken_ = true;
    job.renew_cache(full_->kv_blocks, full_numerics_);
    metrics_.cache_renewed(full_numerics_, full_->kv_dtype, full_->kv_blocks);
  }
  job.change_limits(settings->max_num_seqs, settings->max_num_batched_tokens, settings->kv_blocks);
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
