// How fast the edges between stages are, each alone.
#pragma once

#include <vector>

#include "runtime/comm/world.h"
#include "runtime/device/device.h"
#include "runtime/pipeline/layout.h"
#include "runtime/pipeline/runner.h"

namespace penstock {

/// Bytes a second into each rank but a replica's first (0 there), by messages of 32 MiB. Collective.
std::vector<double> edge_rates(World& world, Device& device, const Layout& layout, RunnerEdges& edges);

}  // namespace penstock
