// The world of a job: MPI brings the ranks together, UCX carries everything after that.
#include <chrono>
#include <memory>

#include "runtime/base/log.h"
#include "runtime/comm/host.h"
#include "runtime/comm/mpi_session.h"
#include "runtime/comm/ucx_world.h"
#include "runtime/comm/world.h"

namespace penstock {

std::unique_ptr<World> make_mpi_world(const MpiOptions& options) {
  const auto session = std::make_shared<MpiSession>(
      read_launch_environment(),
      std::chrono::milliseconds(static_cast<int64_t>(options.init_deadline_seconds * 1000)));
  log::set_identity(session->rank(), this_process(session->rank()).host);
  UcxWorldOptions ucx;
  ucx.rank = session->rank();
  ucx.size = session->size();
  ucx.exchange = [session](const std::string& mine) { return session->exchange(mine); };
  ucx.at_finish = [session] { session->finish(); };
  ucx.peer_deadline_seconds = options.peer_deadline_seconds;
  ucx.gather_deadline_seconds = options.gather_deadline_seconds;
  ucx.end_process_after_failure = true;
  return make_ucx_world(ucx);
}

}  // namespace penstock
