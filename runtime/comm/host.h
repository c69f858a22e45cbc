// What a process can say of itself and of its neighbours on the same machine.
#pragma once

#include <cstdint>
#include <string>

#include "runtime/comm/world.h"

namespace penstock {

RankInfo this_process(int rank);

/// "rank 2 (host node7, pid 1234)"
std::string text_of(const RankInfo& info);

}  // namespace penstock
