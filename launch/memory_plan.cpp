#include "launch/memory_plan.h"

#include <algorithm>
#include <string>

namespace penstock {

uint64_t planned_bytes(World& world, const Device& device, uint64_t cache_bytes) {
  const std::string place = world.info(world.rank()).host + '\n';
  const bool promised = device.kind() == DeviceKind::cpu;
  const MemoryInfo memory = device.memory();
  uint64_t planned = memory.total - std::min(memory.total, memory.free);
  for (const std::string& text : world.gather_all(place + std::to_string(promised ? cache_bytes : 0)))
    if (promised && text.rfind(place, 0) == 0) planned += std::stoull(text.substr(place.size()));
  return planned;
}

}  // namespace penstock
