// Runs a body on every rank of a world, and is the one place where errors become messages and exit statuses.
#pragma once

#include <functional>

#include "launch/stopping.h"
#include "runtime/comm/world.h"

namespace penstock {

/// `local_ranks` > 1, or no launcher: ranks are threads of this process. Under mpirun or srun: this process
/// is one rank of their world. `Stopping` hears of requests on rank 0 only. Returns the process's exit
/// status.
int run_ranks(int local_ranks, const std::function<void(World&, Stopping&)>& body);

}  // namespace penstock
