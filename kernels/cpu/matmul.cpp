#include "kernels/cpu/matmul.h"

#include <algorithm>
#include <cstring>

#include "kernels/cpu/contract.h"
#include "kernels/cpu/number.h"

namespace penstock::cpu {
namespace {

// 512 steps of a panel are 64 KiB: a block of the weight stays in the L2 cache for all tiles of rows, and
// laying the sums aside between blocks costs a hundredth of the block's multiplications. Decides no bits.
constexpr int64_t kBlockSteps = 512;
constexpr int64_t kRowsAtOnce =
    256;  // input rows multiplied in one pass over the weight: more do not stay in the L2 cache
constexpr int64_t kRowsTogether = 1024;    // of experts: their packed input stays in the last cache
constexpr int64_t kRowsAhead = 12;         // rows of y fetched before they are written
constexpr int64_t kPackedAtOnce = 8;       // blocks of a tile; less is not worth waking a thread
constexpr int64_t kStreamDistance = 4096;  // bytes ahead when a weight is only streamed through

uint16_t to_bf16(const TensorView& t, int64_t i) {
  return t.dtype == DType::bf16 ? t.as<const uint16_t>()[i] : round_to_bf16(read(t.data, t.dtype, i));
}

}  // namespace

PackedMatrix::PackedMatrix(Device& device, int64_t n, int64_t k, DType dtype, Held held)
    : n_(n), k_(k), dtype_(dtype), held_(held) {
  ensure(n > 0 && k > 0 && (dtype == DType::f32 || dtype == DType::bf16),
         "a matrix is f32 or bf16 and not empty");
  memory_ = device.allocate(static_cast<size_t>(panels() * panel_bytes()));
  if (in_fp8()) {
    scale_memory_ = device.allocate(scale_bytes());
    std::memset(scale_memory_.get(), 0, scale_bytes());
  }
  // Columns past n and an odd k's partner are multiplied like all others: they are zero.
  if (n % kPanel != 0) std::memset(panel(panels() - 1), 0, static_cast<size_t>(panel_bytes()));
  if (dtype == DType::bf16 && k % 2 != 0)
    for (int64_t p = 0; p < panels(); ++p)
      std::memset(panel(p) + (steps() - 1) * step_bytes(), 0, static_cast<size_t>(step_bytes()));
}

void PackedMatrix::load_fp8_rows(Team& team, int64_t first_row, const TensorView& rows_rK,
                                 const TensorView& scales_rB) {
  check_load_fp8_rows(*this, first_row, rows_rK, scales_rB);
  ensure(in_fp8(), "FP8 rows go to a matrix held in FP8");
  const int64_t end = first_row + rows_rK.dim(0);
  const int64_t first_panel = first_row / kPanel;
  const int64_t a_word = dtype_ == DType::bf16 ? 2 : 1;
  team.share((end + kPanel - 1) / kPanel - first_panel, 1, [&](int, int64_t p0, int64_t p1) {
    for (int64_t p = first_panel + p0; p < first_panel + p1; ++p)
      for (int64_t row = std::max(first_row, p * kPanel); row < std::min(end, (p + 1) * kPanel); ++row) {
        const auto* from = rows_rK.as<const uint8_t>() + (row - first_row) * k_;
        auto* to = reinterpret_cast<uint8_t*>(panel(p)) + row % kPanel * a_word;
        for (int64_t i = 0; i < k_; ++i) to[i / a_word * kPanel * a_word + i % a_word] = from[i];
        for (int64_t b = 0; b < fp8_blocks(); ++b)
          scales(p, b)[row % kPanel] =
              scales_rB.as<const float>()[(row - first_row) * fp8_blocks() + b] * 256.0F;
      }
  });
}

void PackedMatrix::load_rows(Team& team, int64_t first_row, const TensorView& rows_rK) {
  check_load_rows(*this, first_row, rows_rK);
  ensure(!in_fp8(), "a matrix held in FP8 takes FP8 rows");
  const int64_t end = first_row + rows_rK.dim(0);
  const int64_t first_panel = first_row / kPanel;
  team.share((end + kPanel - 1) / kPanel - first_panel, 1, [&](int, int64_t p0, int64_t p1) {
    for (int64_t p = first_panel + p0; p < first_panel + p1; ++p)
      for (int64_t row = std::max(first_row, p * kPanel); row < std::min(end, (p + 1) * kPanel); ++row) {
        const int64_t from = (row - first_row) * k_;
        auto* to = reinterpret_cast<uint32_t*>(panel(p)) + row % kPanel;
        if (dtype_ == DType::f32) {
          for (int64_t i = 0; i < k_; ++i)
            to[i * kPanel] = std::bit_cast<uint32_t>(read(rows_rK.data, rows_rK.dtype, from + i));
        } else {
          for (int64_t i = 0; i < k_; i += 2) {
            const uint32_t high = i + 1 < k_ ? to_bf16(rows_rK, from + i + 1) : 0;
            to[i / 2 * kPanel] = to_bf16(rows_rK, from + i) | (high << 16);
          }
        }
      }
  });
}

struct Multiplier::Rows {
  const PackedMatrix& w;
  RowsAt y;
  RowsAt x;
  TensorView bias_N;
  Into into;
  bool gated;         // y is what swiglu makes of the two halves of the product
  int64_t first = 0;  // rows [first, first + count) of x and y
  int64_t count = 0;
  int64_t tiles = 0;
  int64_t packed = 0;  // where its packed input begins

  int64_t blocks() const { return tiles_for(w.steps(), kBlockSteps); }
  int64_t start(int64_t tile) const { return tile_start(count, tiles, tile); }
  /// Where the tile that starts at `row` stands, for steps [s0, s1) of one block: the tiles of a block
  /// follow each other, so that going through them is reading one stream.
  int64_t packed_at(int64_t row, int64_t s0, int64_t s1) const {
    return packed + s0 * count + row * (s1 - s0);
  }
  /// Panels of columns of y.
  int64_t y_panels() const { return gated ? w.panels() / 2 : w.panels(); }
};

Multiplier::Multiplier(const KernelTable& kernels, Team& team)
    : kernels_(kernels),
      team_(team),
      sums_(static_cast<size_t>(team.size())),
      block_sums_(sums_.size()),
      widened_(sums_.size()) {}

Multiplier::~Multiplier() = default;

void Multiplier::operator()(const TensorView& y_TN, const TensorView& x_TK, const PackedMatrix& w_NK,
                            const TensorView& bias_N, Into into) {
  const auto [m, n, k] = check_matmul(y_TN, x_TK, w_NK, w_NK.dtype(), bias_N);
  multiply({y_TN.as<char>(), y_TN.dtype, n}, {x_TK.as<char>(), x_TK.dtype, k}, m, w_NK, bias_N, into);
}

void Multiplier::multiply(const RowsAt& y, const RowsAt& x, int64_t m, const PackedMatrix& w,
                          const TensorView& bias_N, Into into) {
  multiply_in_passes({w, y, x, bias_N, into, false}, m);
}

void Multiplier::gated(const TensorView& y_TF, const TensorView& x_TK, const PackedMatrix& w_2FK,
                       const TensorView& bias_2F) {
  const int64_t m = y_TF.dim(0);
  ensure(can_gate(m, w_2FK), "gate and up stand side by side");
  multiply_in_passes({w_2FK,
                      {y_TF.as<char>(), y_TF.dtype, y_TF.dim(1)},
                      {x_TK.as<char>(), x_TK.dtype, x_TK.dim(1)},
                      bias_2F,
                      Into::overwrite,
                      true},
                     m);
}

void Multiplier::multiply_in_passes(Rows rows, int64_t m) {
  const int64_t passes = tiles_for(m, kRowsAtOnce);
  for (int64_t pass = 0; pass < passes; ++pass) {
    rows.first = tile_start(m, passes, pass);
    rows.count = tile_start(m, passes, pass + 1) - rows.first;
    rows.tiles = tiles_for(rows.count, kernels_.tile_rows);
    multiply_all({&rows, 1});
  }
}

void Multiplier::by_expert(const TensorView& y_SN, const TensorView& x_SK,
                           std::span<const Matrix* const> w_ENK, const RoutingView& routing) {
  int64_t together = 0;  // rows
  int64_t words = 0;     // of their packed input
  const auto flush = [&] {
    multiply_all(together_);
    together_.clear();
    together = words = 0;
  };
  routing.for_each_expert([&](int64_t e, int64_t start, int64_t m) {
    const auto& w = dynamic_cast<const PackedMatrix&>(*w_ENK[static_cast<size_t>(e)]);
    check_matmul(y_SN.rows(start, m), x_SK.rows(start, m), w, w.dtype(), {});
    const RowsAt y{y_SN.as<char>(), y_SN.dtype, w.n()};
    const RowsAt x{x_SK.as<char>(), x_SK.dtype, w.k()};
    const int64_t passes = tiles_for(m, kRowsAtOnce);
    for (int64_t pass = 0; pass < passes; ++pass) {
      const int64_t first = tile_start(m, passes, pass);
      const int64_t count = tile_start(m, passes, pass + 1) - first;
      if (together + count > kRowsTogether) flush();
      together_.push_back({w,
                           y,
                           x,
                           {},
                           Into::overwrite,
                           false,
                           start + first,
                           count,
                           tiles_for(count, kernels_.tile_rows),
                           words});
      together += count;
      words += count * w.steps();
    }
  });
  flush();
}

namespace {

/// Units of work of several products are numbered through: `starts` holds where each product's begin, and
/// last where all end. Calls each(product, number within it) for units [begin, end).
template <class Each>
void for_units(const std::vector<int64_t>& starts, int64_t begin, int64_t end, const Each& each) {
  const auto after = std::upper_bound(starts.begin(), starts.end(), begin);
  auto product = static_cast<size_t>(after - starts.begin() - 1);
  for (int64_t unit = begin; unit < end; ++unit) {
    while (unit >= starts[product + 1]) ++product;
    each(product, unit - starts[product]);
  }
}

}  // namespace

void Multiplier::multiply_all(std::span<const Rows> all) {
  int64_t panels = 0;
  for (const Rows& rows : all) panels += rows.y_panels();
  if (panels == 0) return;
  // Panels are what threads share; with few panels the rows of one are shared as well.
  const int64_t parts_wanted = 4 * team_.size() / panels;
  const auto parts_of = [&](const Rows& rows) { return std::clamp<int64_t>(parts_wanted, 1, rows.tiles); };
  pack_units_.assign(1, 0);
  panel_units_.assign(1, 0);
  for (const Rows& rows : all) {
    pack_units_.push_back(pack_units_.back() + rows.tiles * rows.blocks());
    panel_units_.push_back(panel_units_.back() + rows.y_panels() * parts_of(rows));
    make_room(rows);
  }
  team_.share(pack_units_.back(), kPackedAtOnce, [&](int, int64_t begin, int64_t end) {
    for_units(pack_units_, begin, end, [&](size_t product, int64_t unit) {
      const Rows& rows = all[product];
      pack(rows, unit / rows.blocks(), unit % rows.blocks());
    });
  });
  team_.share(panel_units_.back(), 1, [&](int thread, int64_t begin, int64_t end) {
    for_units(panel_units_, begin, end, [&](size_t product, int64_t unit) {
      const Rows& rows = all[product];
      const int64_t parts = parts_of(rows);
      multiply_panel(
          rows, unit / parts,
          {tile_start(rows.tiles, parts, unit % parts), tile_start(rows.tiles, parts, unit % parts + 1)},
          thread);
    });
  });
}

void Multiplier::make_room(const Rows& rows) {
  const auto grow = [](auto& memory, int64_t size) {
    if (memory.size() < static_cast<size_t>(size)) memory.resize(static_cast<size_t>(size));
  };
  grow(packed_, rows.packed + rows.count * rows.w.steps());
  for (auto& sums : sums_) grow(sums, rows.count * kPanel * (rows.gated ? 2 : 1));
  if (!rows.w.in_fp8()) return;
  for (auto& sums : block_sums_) grow(sums, kTileRows * kPanel);
  for (auto& widened : widened_) grow(widened, kFp8Columns * kStepBytes);
}

void Multiplier::pack(const Rows& rows, int64_t tile, int64_t block) {
  const int64_t steps = rows.w.steps();
  const bool pairs = rows.w.dtype() == DType::bf16;
  const int64_t whole = pairs ? rows.w.k() / 2 : steps;  // steps before a last one that is half of a pair
  const int64_t first = rows.start(tile);
  const int64_t m = rows.start(tile + 1) - first;
  const int64_t s0 = block * kBlockSteps;
  const int64_t s1 = std::min(s0 + kBlockSteps, steps);
  const int64_t stride = rows.x.stride * (pairs ? 2 : 4);
  const char* from = rows.x.data + (rows.first + first) * stride;
  uint32_t* to = packed_.data() + rows.packed_at(first, s0, s1);
  kernels_.pack_tile(to, from + s0 * 4, stride, static_cast<int>(m), std::min(s1, whole) - s0);
  for (int64_t row = 0; row < m && s1 > whole; ++row) {
    uint16_t last;
    std::memcpy(&last, from + row * stride + whole * 4, 2);
    to[(whole - s0) * m + row] = last;
  }
}

/// Within a block of K the chain is that of the widened values; block after block it is scaled and added.
void Multiplier::sum_fp8_panel(const Rows& rows, int64_t panel, Tiles tiles, float* sums, int thread) {
  const bool pairs = rows.w.dtype() == DType::bf16;
  const int64_t steps = rows.w.steps();
  const int64_t block_steps = pairs ? kFp8Columns / 2 : kFp8Columns;
  float* block = block_sums_[static_cast<size_t>(thread)].data();
  char* widened = widened_[static_cast<size_t>(thread)].data();
  const TileTable& table = pairs ? kernels_.pair_tile : kernels_.float_tile;
  std::fill_n(sums + rows.start(tiles.begin) * kPanel,
              (rows.start(tiles.end) - rows.start(tiles.begin)) * kPanel, 0.0F);
  for (int64_t s = 0; s < steps; s += block_steps) {
    const int64_t here = std::min(block_steps, steps - s);
    const auto* from = reinterpret_cast<const uint8_t*>(rows.w.panel(panel) + s * rows.w.step_bytes());
    if (pairs)
      kernels_.widen_e4m3_bf16(reinterpret_cast<uint16_t*>(widened), from, here * 2 * kPanel);
    else
      kernels_.widen_e4m3_f32(reinterpret_cast<float*>(widened), from, here * kPanel);
    const float* scales = rows.w.scales(panel, s / block_steps);
    const int64_t s0 = s / kBlockSteps * kBlockSteps;  // of the block of packed input
    const int64_t s1 = std::min(s0 + kBlockSteps, steps);
    for (int64_t tile = tiles.begin; tile < tiles.end; ++tile) {
      const int64_t first = rows.start(tile);
      const int64_t m = rows.start(tile + 1) - first;
      const uint32_t* x = packed_.data() + rows.packed_at(first, s0, s1) + (s - s0) * m;
      table.rows[m - 1](x, widened, here, block, true, widened);
      for (int64_t row = 0; row < m; ++row)
        kernels_.add_product(sums + (first + row) * kPanel, block + row * kPanel, scales, kPanel);
    }
  }
}

void Multiplier::sum_panel(const Rows& rows, int64_t panel, const char* next_panel, Tiles tiles,
                           float* sums) const {
  const bool pairs = rows.w.dtype() == DType::bf16;
  const int64_t steps = rows.w.steps();
  const bool streaming = tiles.end - tiles.begin == 1;
  const TileTable& table = streaming ? (pairs ? kernels_.pair_tile_streaming : kernels_.float_tile_streaming)
                                     : (pairs ? kernels_.pair_tile : kernels_.float_tile);
  for (int64_t s = 0; s < steps; s += kBlockSteps) {
    const int64_t here = std::min(kBlockSteps, steps - s);
    const char* w = rows.w.panel(panel) + s * kStepBytes;
    const char* next = s + here < steps ? w + here * kStepBytes : next_panel;
    for (int64_t tile = tiles.begin; tile < tiles.end; ++tile) {
      const int64_t first = rows.start(tile);
      const int64_t m = rows.start(tile + 1) - first;
      // The first two tiles fetch the two halves of the next block; later ones find it there.
      const char* ahead =
          streaming ? w + kStreamDistance : next + std::min<int64_t>(tile - tiles.begin, 1) * here * 64;
      table.rows[m - 1](packed_.data() + rows.packed_at(first, s, s + here), w, here, sums + first * kPanel,
                        s == 0, ahead);
    }
  }
}

void Multiplier::multiply_panel(const Rows& rows, int64_t panel, Tiles tiles, int thread) {
  float* sums = sums_[static_cast<size_t>(thread)].data();
  const auto sum = [&](int64_t p, int64_t next, float* to) {
    if (rows.w.in_fp8())
      sum_fp8_panel(rows, p, tiles, to, thread);
    else
      sum_panel(rows, p, rows.w.panel(next), tiles, to);
  };
  if (rows.gated) {
    const int64_t up = panel + rows.y_panels();
    sum(panel, up, sums);
    sum(up, panel + 1, sums + rows.count * kPanel);
  } else {
    sum(panel, panel + 1, sums);
  }
  finish_panel(rows, panel, tiles, sums);
}

void Multiplier::finish_panel(const Rows& rows, int64_t panel, Tiles tiles, float* sums) const {
  const int64_t column = panel * kPanel;
  const auto columns = static_cast<int>(std::min<int64_t>(kPanel, rows.w.n() - column));
  const float* bias = rows.bias_N.data == nullptr ? nullptr : rows.bias_N.as<const float>() + column;
  const bool to_bf16 = rows.y.dtype == DType::bf16;
  const size_t element = bytes_of(rows.y.dtype);
  char* y = rows.y.data + static_cast<size_t>(rows.first * rows.y.stride + column) * element;
  const size_t stride = static_cast<size_t>(rows.y.stride) * element;
  const int64_t end = rows.start(tiles.end);
  for (int64_t row = rows.start(tiles.begin); row < end; ++row) {
    // Neighbouring rows of y lie pages apart: no hardware foresees the next one.
    const char* ahead = y + static_cast<size_t>(std::min(row + kRowsAhead, end - 1)) * stride;
    __builtin_prefetch(ahead, 1);
    __builtin_prefetch(ahead + static_cast<size_t>(columns) * element - 1, 1);
    char* to = y + static_cast<size_t>(row) * stride;
    float* row_sums = sums + row * kPanel;
    if (rows.gated) {
      float* up = row_sums + rows.count * kPanel;
      if (bias != nullptr) {
        kernels_.finish_row_f32(row_sums, row_sums, bias, columns, false);
        kernels_.finish_row_f32(up, up, bias + rows.w.n() / 2, columns, false);
      }
      if (to_bf16)
        kernels_.swiglu_f32_bf16(reinterpret_cast<uint16_t*>(to), row_sums, up, columns);
      else
        kernels_.swiglu_f32_f32(reinterpret_cast<float*>(to), row_sums, up, columns);
      continue;
    }
    const bool add = rows.into == Into::add;
    if (to_bf16)
      kernels_.finish_row_bf16(reinterpret_cast<uint16_t*>(to), row_sums, bias, columns, add);
    else
      kernels_.finish_row_f32(reinterpret_cast<float*>(to), row_sums, bias, columns, add);
  }
}

}  // namespace penstock::cpu
