// The tables for x86-64 beyond its baseline.
#pragma once

#include "kernels/cpu/kernel_table.h"

namespace penstock::cpu {

const KernelTable& avx512_kernels();  ///< needs avx512f, bw, vl, dq and bf16
const KernelTable& avx2_kernels();    ///< needs avx2 and fma

}  // namespace penstock::cpu
