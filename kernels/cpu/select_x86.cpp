#include "kernels/cpu/x86.h"

namespace penstock::cpu {

std::vector<const KernelTable*> available_kernels() {
  std::vector<const KernelTable*> tables;
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
      __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") &&
      __builtin_cpu_supports("avx512bf16"))
    tables.push_back(&avx512_kernels());
  // Every processor with AVX2 and FMA converts float16 (F16C) too; clang 14 cannot ask for that by name.
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) tables.push_back(&avx2_kernels());
  tables.push_back(&portable_kernels());
  return tables;
}

void pause() {
  __builtin_ia32_pause();
}

}  // namespace penstock::cpu
