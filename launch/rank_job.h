// One rank's part of a generation job: device, ops, stage, cache; then its program of the schedule. The same
// for a process under mpirun and for a thread of a loopback world. This is where concrete types are named.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "launch/edges.h"
#include "launch/job_options.h"
#include "proto/plan.pb.h"
#include "runtime/comm/world.h"
#include "runtime/model/weight_source.h"
#include "runtime/pipeline/stage.h"
#include "runtime/pipeline/turn_taker.h"

namespace penstock {

/// What rank 0 knows of each stage once it is ready, for the closing table.
struct StageFacts {
  std::string host;
  std::string device;
  std::string part;
  int threads = 0;
};

struct ReadyRank {
  JobShape shape;
  std::unique_ptr<Device> device;
  uint64_t device_bytes = 0;   ///< its whole memory
  uint64_t planned_bytes = 0;  ///< in use on the device once every cache stands
  std::string gpu_id;          ///< its UUID; empty for a CPU
  std::unique_ptr<Ops> ops;
  std::unique_ptr<WeightSource> weights;  ///< kept where experts come lazily
  std::unique_ptr<Stage> stage;
  RunnerEdges edges;  ///< for the runner
  int64_t blocks = 0;
  std::string numerics;
  std::string full_numerics;       ///< with a KV cache of the dtype that is computed in
  std::vector<StageFacts> facts;   ///< by rank
  std::vector<Slowness> slowness;  ///< by rank
  int processors =
      0;  ///< stages of a replica that can compute at once where they share cores; 0: all of them
};

/// Loads this rank's weights and gives the stage its cache. Collective; ends with every rank ready or
/// AgreedFailure on every rank.
ReadyRank make_ready(World& world, const JobOptions& options);

/// KV blocks that a job can use: of all its sequences at their longest.
int64_t usable_blocks(const JobShape& shape, int64_t block_size);

/// Cores that this process may use.
int usable_cores();

/// What the process holds, in bytes: at its peak, and right now.
uint64_t peak_resident_bytes();
uint64_t resident_bytes();

}  // namespace penstock
