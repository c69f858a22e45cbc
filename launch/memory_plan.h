// How much of its memory a device has in use once every rank on it has its cache: what operators compare the
// memory in use with.
#pragma once

#include <cstdint>

#include "runtime/comm/world.h"
#include "runtime/device/device.h"

namespace penstock {

/// In bytes. Asked when every rank's cache stands; `cache_bytes`: of this rank's, and of experts yet to come.
/// A GPU has given that memory by then; a CPU rank's pages come as they are used, so the caches of all CPU
/// ranks of its host are counted as promised. Collective.
uint64_t planned_bytes(World& world, const Device& device, uint64_t cache_bytes);

}  // namespace penstock
