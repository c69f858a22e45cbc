// MPI, from MPI_Init to MPI_Finalize: it forms the world, carries the first exchange, and ends it. One per
// process; all calls from the thread that made it. Destroying it does nothing: after a failure MPI_Finalize
// would wait for ranks that are gone, so it is called by finish() alone, and a process that exits without it
// is ended by its launcher.
#pragma once

#include <chrono>
#include <string>
#include <vector>

#include "runtime/comm/launch_environment.h"

namespace penstock {

class MpiSession {
 public:
  /// Throws UsageError for singletons and a thread level that is too low. A world that does not form before
  /// the deadline ends the process with a message that names who is missing.
  MpiSession(const LaunchEnvironment& environment, std::chrono::milliseconds init_deadline);
  MpiSession(const MpiSession&) = delete;
  MpiSession& operator=(const MpiSession&) = delete;

  int rank() const { return rank_; }
  int size() const { return size_; }

  /// Everyone's text, by rank; at most 1 MiB each. Sleeps between polls. Has the deadline of the constructor;
  /// rank 0 throws Error naming who is missing.
  std::vector<std::string> exchange(const std::string& mine);

  /// MPI_Finalize, with a deadline. Collective.
  void finish();

 private:
  std::vector<std::string> collect(const std::string& mine);

  std::chrono::milliseconds deadline_;
  int rank_ = 0;
  int size_ = 1;
};

}  // namespace penstock
