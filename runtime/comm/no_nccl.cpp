// Stands in for the NCCL channel in a build without it.
#include "runtime/base/error.h"
#include "runtime/comm/nccl_channel.h"

namespace penstock {
namespace {

[[noreturn]] void refuse() {
  throw UsageError(
      "This program was built without NCCL, so GPUs cannot exchange hidden states. Configure the preset "
      "`cuda` on a machine with NCCL, or run with --device cpu.");
}

}  // namespace

std::string make_nccl_id() {
  refuse();
}

std::unique_ptr<Sender> make_nccl_sender(World&, Device&, const std::string&, int) {
  refuse();
}

std::unique_ptr<Receiver> make_nccl_receiver(World&, Device&, const std::string&, int) {
  refuse();
}

}  // namespace penstock
