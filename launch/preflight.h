// `penstock generate --preflight`: everything a job on several hosts commonly stumbles over, looked at before
// hours are spent. Loads no weights and writes no answers.
#pragma once

#include "launch/job_options.h"
#include "runtime/comm/world.h"

namespace penstock {

/// Prints which rank would do what where, and a table of checks, on rank 0's standard output. Collective.
/// Throws AgreedFailure on every rank when a check fails, naming the checks; the edge of the pipeline that
/// carries nothing ends the world instead, with both its ranks in the message.
void preflight(World& world, const JobOptions& options);

}  // namespace penstock
