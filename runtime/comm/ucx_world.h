// A world over UCX. How the ranks first learn each other's addresses is the caller's: MPI in a job, a table
// shared by threads in tests.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "runtime/comm/world.h"

namespace penstock {

struct UcxWorldOptions {
  int rank = 0;
  int size = 1;
  /// Everyone's text, by rank; called twice, by the constructor's thread.
  std::function<std::vector<std::string>(const std::string& mine)> exchange;
  /// What finish() does last, when every rank has finished.
  std::function<void()> at_finish = [] {};
  double peer_deadline_seconds = 10;
  double gather_deadline_seconds = 1800;
  /// After a failure, end the process if it is still there two seconds later. Not for ranks that are threads.
  bool end_process_after_failure = false;
};

std::unique_ptr<World> make_ucx_world(const UcxWorldOptions& options);

}  // namespace penstock
