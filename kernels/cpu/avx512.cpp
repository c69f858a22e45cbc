// Compiled with AVX512 and BF16 instructions: nothing here runs before best_kernels() has asked the
// processor.
#include "kernels/cpu/attention_tile.h"
#include "kernels/cpu/peak_kernels.h"
#include "kernels/cpu/row_kernels.h"
#include "kernels/cpu/scaled_rows.h"
#include "kernels/cpu/simd_avx512.h"
#include "kernels/cpu/x86.h"

namespace penstock::cpu {

const KernelTable& avx512_kernels() {
  static constexpr KernelTable kTable = [] {
    KernelTable table{};
    table.name = Avx512::kName;
    add_matmul<Avx512>(table);
    add_attention<Avx512>(table);
    add_rows<Avx512>(table);
    add_scaled_rows<Avx512>(table);
    add_peak<Avx512>(table);
    return table;
  }();
  return kTable;
}

}  // namespace penstock::cpu
