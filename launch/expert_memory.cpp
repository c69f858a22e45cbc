#include "launch/expert_memory.h"

#include <algorithm>
#include <cstdio>

#include "launch/job_options.h"
#include "runtime/base/log.h"

namespace penstock {
namespace {

/// What all ranks of this rank's host say, summed. Collective.
uint64_t sum_on_host(World& world, uint64_t mine) {
  const std::vector<std::string> all = world.gather_all(std::to_string(mine));
  uint64_t sum = 0;
  for (size_t r = 0; r < all.size(); ++r)
    if (world.info(static_cast<int>(r)).host == world.info(world.rank()).host) sum += std::stoull(all[r]);
  return sum;
}

bool first_on_host(const World& world) {
  for (int r = 0; r < world.rank(); ++r)
    if (world.info(r).host == world.info(world.rank()).host) return false;
  return true;
}

std::string mebibytes(uint64_t bytes) {
  char text[32];
  std::snprintf(text, sizeof text, "%.1f MiB", static_cast<double>(bytes) / (1 << 20));
  return text;
}

std::string of_text(uint64_t part, uint64_t whole) {
  return std::to_string(part) + " of " + std::to_string(whole);
}

}  // namespace

uint64_t experts_to_come_here(World& world, const Stage& stage) {
  const ExpertUse use = stage.expert_use();
  return sum_on_host(world, use.bytes - use.held_bytes);
}

uint64_t free_beside_experts(uint64_t free_bytes, uint64_t experts_to_come) {
  return std::max(free_bytes - std::min(free_bytes, experts_to_come), free_bytes / 4);
}

void warn_of_experts_without_room(World& world, const Device& device, const Stage& stage, int64_t blocks,
                                  uint64_t experts_to_come) {
  const uint64_t kv = sum_on_host(world, stage.kv_bytes_per_block() * static_cast<uint64_t>(blocks));
  const uint64_t free = device.memory().free;
  if (experts_to_come == 0 || !first_on_host(world) || kv + experts_to_come <= free) return;
  log::warning("experts that rows are yet to be routed to would take " + mebibytes(experts_to_come) +
               " on this host, which has " + mebibytes(free - std::min(free, kv)) +
               " for them: a job that touches more stops with a message, and keeps its finished rows");
}

std::string experts_text(const std::vector<proto::StageReport>& reports, const Layout& layout, bool lazy) {
  uint64_t experts = 0, held = 0, bytes = 0, held_bytes = 0;
  double seconds = 0;
  std::string stages;
  for (size_t s = 0; s < reports.size(); ++s) {
    const proto::StageReport& r = reports[s];
    if (r.experts() == 0) continue;
    experts += r.experts();
    held += r.experts_held();
    bytes += r.expert_bytes();
    held_bytes += r.expert_held_bytes();
    seconds += r.expert_read_seconds();
    stages += (stages.empty() ? " (" : ", ") + stage_name(layout, static_cast<int>(s)) + ": " +
              of_text(r.experts_held(), r.experts());
  }
  if (experts == 0 || !lazy) return {};
  char read[32];
  std::snprintf(read, sizeof read, "%.1f s", seconds);
  return "experts touched: " + of_text(held, experts) + stages + "), " + mebibytes(held_bytes) + " of " +
         mebibytes(bytes) + " in memory, read in " + read + "\n";
}

}  // namespace penstock
