#include "launch/stage_reporter.h"

#include <algorithm>
#include <optional>
#include <utility>

#include "runtime/base/log.h"
#include "runtime/device/nvml.h"

namespace penstock {

proto::StageReport complete_report(proto::StageReport report, const ReadyRank& ready) {
  report.set_weight_bytes(ready.stage->weight_bytes());
  report.set_kv_bytes(ready.stage->kv_bytes_per_block() * static_cast<uint64_t>(ready.blocks));
  report.set_peak_resident_bytes(peak_resident_bytes());
  const ExpertUse experts = ready.stage->expert_use();
  report.set_experts(experts.experts);
  report.set_experts_held(experts.held);
  report.set_expert_bytes(experts.bytes);
  report.set_expert_held_bytes(experts.held_bytes);
  report.set_expert_read_seconds(experts.read_seconds);
  report.set_memory_planned_bytes(ready.planned_bytes);
  if (ready.device->kind() == DeviceKind::cpu) {
    const MemoryInfo memory = ready.device->memory();
    report.set_memory_total_bytes(memory.total);
    report.set_memory_free_bytes(memory.free);
    report.set_memory_used_bytes(resident_bytes());
    report.set_memory_reserved_bytes(report.memory_used_bytes());
  } else if (const std::optional<MemoryUse> use = ready.device->memory_use()) {
    const size_t cached = use->reserved - use->in_use;
    report.set_memory_total_bytes(ready.device_bytes);
    report.set_memory_free_bytes(ready.device_bytes - std::min<uint64_t>(ready.device_bytes, use->reserved));
    report.set_memory_used_bytes(use->in_use);
    report.set_memory_reserved_bytes(use->reserved);
    report.set_memory_fragmented_bytes(cached - use->largest_free);
  }
  return report;
}

namespace {

/// The device as its other users leave it.
void add_what_all_processes_do(proto::StageReport& report, const Nvml& nvml) {
  if (const std::optional<double> busy = nvml.utilization()) report.set_device_utilization(*busy);
  if (const std::optional<MemoryInfo> memory = nvml.memory()) {
    report.set_memory_total_bytes(memory->total);
    report.set_memory_free_bytes(memory->free);
  }
}

}  // namespace

StageReporter::StageReporter(World& world, StageMeter& meter, const ReadyRank& ready, double seconds,
                             Local local)
    : world_(world), meter_(meter), ready_(ready), local_(std::move(local)) {
  if (seconds > 0) thread_ = std::thread([this, seconds] { report_until_stopped(seconds); });
}

StageReporter::~StageReporter() {
  {
    const std::lock_guard lock(mutex_);
    stop_ = true;
  }
  stop_changed_.notify_all();
  if (thread_.joinable()) thread_.join();
}

void StageReporter::report_until_stopped(double seconds) {
  const std::unique_ptr<Nvml> nvml = ready_.gpu_id.empty() ? nullptr : Nvml::open(ready_.gpu_id);
  std::unique_lock lock(mutex_);
  while (!stop_changed_.wait_for(lock, std::chrono::duration<double>(seconds), [this] { return stop_; })) {
    try {
      proto::StageReport report = complete_report(meter_.report(StageMeter::Clock::now()), ready_);
      if (nvml) add_what_all_processes_do(report, *nvml);
      if (world_.rank() == 0)
        local_(std::move(report));
      else
        world_.control().send(0, ControlKind::live_report, report.SerializeAsString());
    } catch (const WorldAborted&) {
      return;  // the runner is told as well
    } catch (const std::exception& e) {
      log::warning("no reports from here on: " + std::string(e.what()));
      return;
    }
  }
}

}  // namespace penstock
