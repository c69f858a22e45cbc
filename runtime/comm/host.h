// What a process can say of itself and of its neighbours on the same machine.
#pragma once

#include <cstdint>
#include <string>

#include "runtime/comm/world.h"

namespace penstock {

RankInfo this_process(int rank);

/// Equal for two processes that see each other's process ids and shared memory: same boot of the same
/// machine, same namespaces of both.
std::string this_place();

/// False when no such process exists here, or it has ended and only waits to be reaped.
bool process_alive(int64_t pid);

/// "rank 2 (host node7, pid 1234)"
std::string text_of(const RankInfo& info);

/// "rank 2" or "ranks 0, 2, 3"
std::string text_of_ranks(const std::vector<int>& ranks);

}  // namespace penstock
