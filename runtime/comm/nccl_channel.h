// The data plane between GPUs of different processes: NCCL send and receive, one communicator of two ranks
// for each edge, in a stream of its own, so that transfers run beside the forward. no_nccl.cpp stands in
// where NCCL's header was missing at build time; the library itself is opened when the first edge is asked
// for.
//
// An edge that breaks ends the world in its name.
#pragma once

#include <memory>
#include <string>

#include "runtime/comm/channel.h"
#include "runtime/comm/world.h"
#include "runtime/device/device.h"

namespace penstock {

/// What the two ends of one edge are told to find each other: made by either, given to both.
/// Throws UsageError where this program or this machine has no NCCL.
std::string make_nccl_id();

/// The sending end of the edge from this rank to rank `to`; messages are memory of `device`, a CUDA device.
/// Returns when the other end has been made too and a first message has gone through; ends the process with a
/// message when that takes minutes. `world` and `device` must outlive the sender.
std::unique_ptr<Sender> make_nccl_sender(World& world, Device& device, const std::string& id, int to);
/// The receiving end of the edge from rank `from` to this rank; otherwise as make_nccl_sender.
std::unique_ptr<Receiver> make_nccl_receiver(World& world, Device& device, const std::string& id, int from);

}  // namespace penstock
