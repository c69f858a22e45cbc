// What the launcher says of the world in the environment, before and beside MPI.
#pragma once

#include <functional>
#include <optional>
#include <string>

namespace penstock {

struct LaunchEnvironment {
  int size = 0;        ///< processes the launcher started together; 0: started by hand
  int rank = 0;        ///< of this process; 0 where the launcher does not say
  int local_size = 0;  ///< processes on this host; 0: unknown
  std::string job;     ///< names this world among others on the same host
  bool has_meeting_point =
      false;            ///< the launcher offers what MPI needs to bring its processes together (PMIx, PMI)
  std::string said_by;  ///< the variable that gave `size`, with its value: "SLURM_NTASKS=4"
};

/// `lookup` is getenv: the value of a variable, or nothing.
LaunchEnvironment read_launch_environment(
    const std::function<std::optional<std::string>(const char* name)>& lookup);
LaunchEnvironment read_launch_environment();

/// Throws when MPI sees fewer processes than the launcher started, which means that every process is a world
/// of its own: UsageError on rank 0, a silent WorldAborted on the others, so that the user reads it once.
void refuse_singletons(const LaunchEnvironment& environment, int world_size);

}  // namespace penstock
