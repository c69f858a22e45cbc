// The data plane: one direction of one edge of the chain, rank to next rank. Chosen once at start: loopback
// (inside one process), UCX (host memory), NCCL (GPU memory). Messages arrive in the order they were sent,
// each into the receive posted for it in the same order. Both ends are driven by the rank's one runner
// thread.
#pragma once

#include <cstddef>
#include <memory>
#include <span>

namespace penstock {

using Bytes = std::span<std::byte>;
using ConstBytes = std::span<const std::byte>;

/// A transfer under way. The buffer must stay alive and untouched until `wait` has returned; the one who
/// drops a transfer that has not been waited for keeps that duty.
class Transfer {
 public:
  virtual ~Transfer() = default;
  virtual bool done() const = 0;
  /// Sleeps until done. Throws Error naming the peer when the peer is gone, or the world has been aborted.
  virtual void wait() = 0;
};
using TransferPtr = std::unique_ptr<Transfer>;

class Sender {
 public:
  virtual ~Sender() = default;
  /// Starts sending; never blocks for the receiver.
  virtual TransferPtr send(ConstBytes message) = 0;
};

class Receiver {
 public:
  virtual ~Receiver() = default;
  /// Posts a receive for the next message, which must have exactly buffer.size() bytes: another size is an
  /// Error from wait() that names both. May be posted before or after the message arrives. A device is
  /// through with all work that uses the buffer: the message may be there at once.
  virtual TransferPtr receive(Bytes buffer) = 0;
};

}  // namespace penstock
