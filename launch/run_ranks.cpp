#include "launch/run_ranks.h"

#include <algorithm>
#include <thread>
#include <vector>

#include "launch/agree.h"
#include "launch/signal_watch.h"
#include "runtime/base/log.h"

namespace penstock {
namespace {

int run_one(World& world, Stopping& stopping, const std::function<void(World&, Stopping&)>& body) {
  try {
    body(world, stopping);
    world.finish();
    return static_cast<int>(ExitStatus::success);
  } catch (const JobStopped& e) {
    if (world.rank() == 0) log::warning(e.what());
    world.finish();
    return static_cast<int>(e.status());
  } catch (const AgreedFailure& e) {
    if (world.rank() == 0) log::error(e.what());
    world.finish();
    return static_cast<int>(e.status());
  } catch (const WorldAborted& e) {
    return static_cast<int>(e.status());
  } catch (const Error& e) {
    world.abort(e.what(), e.status());
    return static_cast<int>(e.status());
  } catch (const std::exception& e) {
    world.abort(e.what());
    return static_cast<int>(ExitStatus::runtime_failure);
  }
}

}  // namespace

int run_ranks(int local_ranks, const std::function<void(World&, Stopping&)>& body) {
  SignalWatch::block_signals();
  if (local_ranks <= 1 && launched_by_mpi()) {
    const std::unique_ptr<World> world = make_mpi_world({});
    Stopping stopping(*world);
    const SignalWatch watch(*world);
    return run_one(*world, stopping, body);
  }
  std::vector<std::unique_ptr<World>> worlds = make_loopback_world(std::max(1, local_ranks));
  log::set_identity(0, worlds[0]->info(0).host);
  Stopping stopping(*worlds[0]);
  const SignalWatch watch(*worlds[0]);
  std::vector<int> status(worlds.size());
  std::vector<std::thread> threads;
  for (size_t r = 1; r < worlds.size(); ++r)
    threads.emplace_back([&, r] { status[r] = run_one(*worlds[r], stopping, body); });
  status[0] = run_one(*worlds[0], stopping, body);
  for (std::thread& t : threads) t.join();
  return *std::max_element(status.begin(), status.end());
}

}  // namespace penstock
