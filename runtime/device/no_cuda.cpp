// Stands in for cuda_device.cpp where the CUDA toolkit is absent.
#include "runtime/device/device.h"

namespace penstock {

std::unique_ptr<Device> make_cuda_device(int) {
  throw UsageError("--device cuda: this program was built without CUDA; build it with 'cmake --preset cuda'");
}

}  // namespace penstock
