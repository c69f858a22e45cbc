// The data plane between GPUs. One edge of the chain each; no_nccl.cpp stands in where NCCL was missing at
// build time.
#pragma once

#include <memory>

#include "runtime/comm/channel.h"
#include "runtime/comm/world.h"

namespace penstock {

/// The sending end of the edge from this rank to rank `to`; buffers are GPU memory of this rank's device.
/// Throws UsageError "built without NCCL" in a build that has none.
std::unique_ptr<Sender> make_nccl_sender(World& world, int to);
/// The receiving end of the edge from rank `from` to this rank. Throws as make_nccl_sender does.
std::unique_ptr<Receiver> make_nccl_receiver(World& world, int from);

}  // namespace penstock
