// Stands in for kernels/cuda/ where the CUDA toolkit is absent.
#include "kernels/bench.h"
#include "kernels/ops.h"

namespace penstock {
namespace {

[[noreturn]] void refuse() {
  throw UsageError("--device cuda: this program was built without CUDA; build it with 'cmake --preset cuda'");
}

}  // namespace

std::unique_ptr<Ops> make_cuda_ops(Device&, const CudaProducts&) {
  refuse();
}

MachineBounds bench_cuda_bounds(Device&, Ops&) {
  refuse();
}

MachineBounds bench_cuda(Device&, Ops&, const std::function<void(const KernelTiming&)>&) {
  refuse();
}

}  // namespace penstock
