#include "kernels/cpu/kernel_table.h"

namespace penstock::cpu {

std::vector<const KernelTable*> available_kernels() {
  return {&portable_kernels()};
}

}  // namespace penstock::cpu
