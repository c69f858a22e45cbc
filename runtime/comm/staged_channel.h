// Channels for device memory over a channel for host memory: where one end of an edge is a CPU rank, or both
// ends are threads of one process. Copies go through the device's pinned staging.
#pragma once

#include <memory>

#include "runtime/comm/channel.h"
#include "runtime/device/device.h"

namespace penstock {

/// Copies each message to the host, waiting for the device's work so far, and sends the copy. `device` must
/// outlive the sender; the message may be changed as soon as send() has returned.
std::unique_ptr<Sender> make_staged_sender(Device& device, std::unique_ptr<Sender> host_sender);
/// The copy to the device is asked for in wait(), before whatever is asked of the device afterwards; done()
/// says that wait() will not sleep. `device` must outlive the receiver, and the receiver its transfers.
std::unique_ptr<Receiver> make_staged_receiver(Device& device, std::unique_ptr<Receiver> host_receiver);

}  // namespace penstock
