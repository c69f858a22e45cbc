// Memory of a job whose experts are read when rows are first routed to them: what is kept for them, and what
// the user is told.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "proto/plan.pb.h"
#include "runtime/comm/world.h"
#include "runtime/pipeline/layout.h"
#include "runtime/pipeline/stage.h"

namespace penstock {

/// Bytes of experts that the ranks of this rank's host have not read. Collective.
uint64_t experts_to_come_here(World& world, const Stage& stage);

/// Of a host's free memory, what a KV cache may take its share of: all but the experts to come, so that it is
/// as large as if they were there. Where they could never all be held, a quarter.
uint64_t free_beside_experts(uint64_t free_bytes, uint64_t experts_to_come);

/// The first rank of each host says so when the experts to come have no room beside the host's KV caches.
/// Collective.
void warn_of_experts_without_room(World& world, const Device& device, const Stage& stage, int64_t blocks,
                                  uint64_t experts_to_come);

/// For the closing table: how many experts were touched, and the memory that took; by stage, and summed over
/// all ranks. `reports` by rank. Empty where no expert came lazily.
std::string experts_text(const std::vector<proto::StageReport>& reports, const Layout& layout, bool lazy);

}  // namespace penstock
