#include "runtime/comm/launch_environment.h"

#include <charconv>
#include <cstdlib>
#include <initializer_list>

#include "runtime/comm/world.h"

namespace penstock {
namespace {

using Lookup = std::function<std::optional<std::string>(const char*)>;

struct Found {
  const char* name = nullptr;
  int value = 0;
};

/// The first of the variables that holds a number. Slurm writes "2(x3)" where counts differ by node; the
/// first number is the count of the first nodes, which is enough for a message.
Found first_number(const Lookup& lookup, std::initializer_list<const char*> names) {
  for (const char* name : names) {
    const auto text = lookup(name);
    if (!text) continue;
    int value = 0;
    if (std::from_chars(text->data(), text->data() + text->size(), value).ec == std::errc())
      return {name, value};
  }
  return {};
}

}  // namespace

LaunchEnvironment read_launch_environment(const Lookup& lookup) {
  LaunchEnvironment found;
  // mpirun inside a Slurm allocation sees Slurm's variables too: what mpirun says comes first.
  const Found size =
      first_number(lookup, {"OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "SLURM_STEP_NUM_TASKS", "SLURM_NTASKS"});
  if (size.name == nullptr) return found;
  found.size = size.value;
  found.said_by = std::string(size.name) + "=" + std::to_string(size.value);
  found.rank = first_number(lookup, {"OMPI_COMM_WORLD_RANK", "PMIX_RANK", "PMI_RANK", "SLURM_PROCID"}).value;
  found.local_size = first_number(lookup, {"OMPI_COMM_WORLD_LOCAL_SIZE", "SLURM_STEP_TASKS_PER_NODE",
                                           "SLURM_NTASKS_PER_NODE"})
                         .value;
  for (const char* name : {"PMIX_NAMESPACE", "SLURM_JOB_ID"}) {
    if (!found.job.empty()) break;
    found.job = lookup(name).value_or("");
  }
  for (const char* name : {"OMPI_COMM_WORLD_SIZE", "PMIX_NAMESPACE", "PMI_RANK", "PMI_FD"}) {
    found.has_meeting_point = found.has_meeting_point || lookup(name).has_value();
  }
  return found;
}

LaunchEnvironment read_launch_environment() {
  return read_launch_environment([](const char* name) {
    const char* value = std::getenv(name);
    return value == nullptr ? std::nullopt : std::optional<std::string>(value);
  });
}

void refuse_singletons(const LaunchEnvironment& environment, int world_size) {
  if (environment.size <= world_size) return;
  const std::string message = "The launcher started " + std::to_string(environment.size) + " processes (" +
                              environment.said_by + "), but MPI sees a world of " +
                              std::to_string(world_size) +
                              ": each process would be alone. The usual cause is srun with the wrong --mpi, "
                              "or without srun in a Slurm "
                              "job: use `srun --mpi=pmix` (`srun --mpi=list` shows what this cluster has) or "
                              "`mpirun`; for one process on "
                              "purpose, `srun -n 1`.";
  if (environment.rank == 0) throw UsageError(message);
  throw WorldAborted(message, ExitStatus::bad_usage, 0);
}

bool launched_by_mpi() {
  return read_launch_environment().size > 1;
}

}  // namespace penstock
