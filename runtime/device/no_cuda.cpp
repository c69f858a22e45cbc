// Stands in for cuda_device.cpp where the CUDA toolkit is absent.
#include "runtime/device/device.h"

namespace penstock {

namespace {

[[noreturn]] void refuse() {
  throw UsageError("--device cuda: this program was built without CUDA; build it with 'cmake --preset cuda'");
}

}  // namespace

std::unique_ptr<Device> make_cuda_device(int) {
  refuse();
}

std::vector<std::string> cuda_device_ids() {
  refuse();
}

}  // namespace penstock
