// The data plane between GPUs of one host that reach each other's memory, in different processes. The
// sender's copy engine pushes a message, chunk by chunk, into a ring in the receiver's memory; the two
// streams wait for each other by a counter in the memory of the one that waits. No multiprocessor takes part,
// where NCCL's kernels would hold some all the time: the forward beside a transfer has the whole GPU.
//
// Both ends make theirs and give the other what it needs to open it; when both could, the edge is connected.
#pragma once

#include <memory>
#include <string>

#include "runtime/comm/channel.h"
#include "runtime/comm/world.h"
#include "runtime/device/device.h"

namespace penstock {

class CopyEnd {
 public:
  virtual ~CopyEnd() = default;
  /// For the other end, which is in another process of this host.
  virtual std::string offer() const = 0;
  /// Opens what the other end offered. False where its memory cannot be reached: the edge cannot be had.
  virtual bool open(const std::string& offer) = 0;
  /// Once both ends have opened each other; what this end is made for. Returns when a first message has gone
  /// through; ends the process with a message when that takes minutes.
  virtual std::unique_ptr<Sender> connect_sender() = 0;
  virtual std::unique_ptr<Receiver> connect_receiver() = 0;
};

/// The sending end of the edge from this rank to rank `to`, whose messages are memory of `device`, a CUDA
/// device. `world` and `device` must outlive it and what is connected. Throws Error where this GPU's memory
/// cannot be shared.
std::shared_ptr<CopyEnd> make_copy_sending_end(World& world, Device& device, int to);
/// The receiving end of the edge from rank `from` to this rank; otherwise as make_copy_sending_end.
std::shared_ptr<CopyEnd> make_copy_receiving_end(World& world, Device& device, int from);

}  // namespace penstock
