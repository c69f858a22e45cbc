// Compiled with AVX2 and FMA instructions: nothing here runs before best_kernels() has asked the
// processor.
#include "kernels/cpu/attention_tile.h"
#include "kernels/cpu/peak_kernels.h"
#include "kernels/cpu/row_kernels.h"
#include "kernels/cpu/scaled_rows.h"
#include "kernels/cpu/simd_avx2.h"
#include "kernels/cpu/x86.h"

namespace penstock::cpu {

const KernelTable& avx2_kernels() {
  static constexpr KernelTable kTable = [] {
    KernelTable table{};
    table.name = Avx2::kName;
    add_matmul<Avx2>(table);
    add_attention<Avx2>(table);
    add_rows<Avx2>(table);
    add_scaled_rows<Avx2>(table);
    add_peak<Avx2>(table);
    return table;
  }();
  return kTable;
}

}  // namespace penstock::cpu
