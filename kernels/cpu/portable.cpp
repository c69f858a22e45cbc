// Compiled for the baseline of the architecture: the table any processor can run.
#include "kernels/cpu/attention_tile.h"
#include "kernels/cpu/peak_kernels.h"
#include "kernels/cpu/row_kernels.h"
#include "kernels/cpu/scaled_rows.h"
#include "kernels/cpu/simd_portable.h"

namespace penstock::cpu {

const KernelTable& portable_kernels() {
  static constexpr KernelTable kTable = [] {
    KernelTable table{};
    table.name = Portable::kName;
    add_matmul<Portable>(table);
    add_attention<Portable>(table);
    add_rows<Portable>(table);
    add_scaled_rows<Portable>(table);
    add_peak<Portable>(table);
    return table;
  }();
  return kTable;
}

}  // namespace penstock::cpu
