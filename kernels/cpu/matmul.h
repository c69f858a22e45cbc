// The matrix product over weights packed into panels; see matmul_tile.h for the layout and why its rows keep
// their bits. Driven by the thread that owns the Ops.
#pragma once

#include <span>
#include <vector>

#include "kernels/cpu/kernel_table.h"
#include "kernels/cpu/team.h"
#include "kernels/ops.h"

namespace penstock::cpu {

class PackedMatrix final : public Matrix {
 public:
  /// in_fp8: a word of a panel takes as many bytes as it has elements, and is widened block by block of
  /// kFp8Columns while it is multiplied.
  enum class Held { as_multiplied, in_fp8 };
  PackedMatrix(Device& device, int64_t n, int64_t k, DType dtype, Held held = Held::as_multiplied);
  int64_t n() const override { return n_; }
  int64_t k() const override { return k_; }
  size_t bytes() const override { return static_cast<size_t>(panels() * panel_bytes()) + scale_bytes(); }
  DType dtype() const { return dtype_; }

  int64_t panels() const { return (n_ + kPanel - 1) / kPanel; }
  int64_t steps() const { return dtype_ == DType::bf16 ? (k_ + 1) / 2 : k_; }
  bool in_fp8() const { return held_ == Held::in_fp8; }
  int64_t step_bytes() const { return !in_fp8() ? kStepBytes : dtype_ == DType::bf16 ? 2 * kPanel : kPanel; }
  int64_t panel_bytes() const { return steps() * step_bytes(); }
  char* panel(int64_t p) const { return static_cast<char*>(memory_.get()) + p * panel_bytes(); }

  void load_rows(Team& team, int64_t first_row, const TensorView& rows_rK);

  /// Of a weight in FP8: the 32 columns' scales of one block of K, times 256 (Multiplier widens to 1/256 of
  /// the value).
  float* scales(int64_t p, int64_t block) const {
    return static_cast<float*>(scale_memory_.get()) + (p * fp8_blocks() + block) * kPanel;
  }
  int64_t fp8_blocks() const { return (k_ + kFp8Columns - 1) / kFp8Columns; }
  void load_fp8_rows(Team& team, int64_t first_row, const TensorView& rows_rK, const TensorView& scales_rB);

 private:
  size_t scale_bytes() const {
    return in_fp8() ? static_cast<size_t>(panels() * fp8_blocks() * kPanel) * sizeof(float) : 0;
  }

  int64_t n_;
  int64_t k_;
  DType dtype_;
  Held held_;
  DeviceMemory memory_;
  DeviceMemory scale_memory_;
};

/// Rows of a matrix product that need not follow each other without a gap.
struct RowsAt {
  char* data;
  DType dtype;
  int64_t stride;  // elements from one row to the next
};

/// Keeps the scratch memory of matrix products between calls.
class Multiplier {
 public:
  Multiplier(const KernelTable& kernels, Team& team);
  ~Multiplier();
  void operator()(const TensorView& y_TN, const TensorView& x_TK, const PackedMatrix& w_NK,
                  const TensorView& bias_N, Into into);
  /// The same for `m` rows of `w.k()` and `w.n()` elements; x has w's dtype.
  void multiply(const RowsAt& y, const RowsAt& x, int64_t m, const PackedMatrix& w, const TensorView& bias_N,
                Into into);
  /// Whether gated() may be called: gate and up of a column stand at the same place of two panels, and there
  /// are rows enough for a weight not just to be streamed through.
  bool can_gate(int64_t m, const PackedMatrix& w_2FK) const {
    return w_2FK.n() % (2 * kPanel) == 0 && m > kernels_.tile_rows;
  }
  /// y_TF = silu(gate) up of the rows' products with w_2FK (gate's rows, then up's), which stay in the cache
  /// of the thread that made them. The bits of the product in f32 and swiglu().
  void gated(const TensorView& y_TF, const TensorView& x_TK, const PackedMatrix& w_2FK,
             const TensorView& bias_2F);
  /// y_SN = x_SK w^T, where each pair's w is that of its expert: w_ENK[e] is of type PackedMatrix. Experts
  /// with few rows are multiplied together, so that no thread waits at the end of each.
  void by_expert(const TensorView& y_SN, const TensorView& x_SK, std::span<const Matrix* const> w_ENK,
                 const RoutingView& routing);

 private:
  struct Rows;
  /// Neighbouring tiles of rows that one thread multiplies with a panel.
  struct Tiles {
    int64_t begin, end;
  };
  void multiply_in_passes(Rows rows, int64_t m);
  void multiply_all(std::span<const Rows> all);
  void make_room(const Rows& rows);
  void pack(const Rows& rows, int64_t tile, int64_t block);
  void multiply_panel(const Rows& rows, int64_t panel, Tiles tiles, int thread);
  void sum_panel(const Rows& rows, int64_t panel, const char* next_panel, Tiles tiles, float* sums) const;
  void sum_fp8_panel(const Rows& rows, int64_t panel, Tiles tiles, float* sums, int thread);
  void finish_panel(const Rows& rows, int64_t panel, Tiles tiles, float* sums) const;

  const KernelTable& kernels_;
  Team& team_;
  std::vector<uint32_t> packed_;     // tiles of the input: [steps][rows of the tile] words
  std::vector<Rows> together_;       // of experts
  std::vector<int64_t> pack_units_;  // where each of the products begins among all units of work
  std::vector<int64_t> panel_units_;
  std::vector<std::vector<float>> sums_;        // a thread's unfinished results of one panel
  std::vector<std::vector<float>> block_sums_;  // and of one block of an FP8 weight
  std::vector<std::vector<char>> widened_;      // and that block, widened
};

}  // namespace penstock::cpu
