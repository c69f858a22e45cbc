// Stands in for the copying edges in a build without CUDA.
#include "runtime/base/error.h"
#include "runtime/comm/cuda_copy_channel.h"

namespace penstock {
namespace {

[[noreturn]] void refuse() {
  throw UsageError(
      "This program was built without CUDA. Configure the preset `cuda`, or run with --device cpu.");
}

}  // namespace

std::shared_ptr<CopyEnd> make_copy_sending_end(World&, Device&, int) {
  refuse();
}

std::shared_ptr<CopyEnd> make_copy_receiving_end(World&, Device&, int) {
  refuse();
}

}  // namespace penstock
