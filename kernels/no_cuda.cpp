// Stands in for kernels/cuda/ where the CUDA toolkit is absent.
#include "kernels/ops.h"

namespace penstock {

std::unique_ptr<Ops> make_cuda_ops(Device&) {
  throw UsageError("--device cuda: this program was built without CUDA; build it with 'cmake --preset cuda'");
}

}  // namespace penstock
