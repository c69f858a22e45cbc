// The inner loops that depend on the instruction set, as one table of functions. Each instruction set fills a
// table in a translation unit compiled with its flags (avx512.cpp, avx2.cpp, portable.cpp); best_kernels()
// picks one by asking the processor. What surrounds the loops (threads, block tables, memory) is compiled
// once, plainly.
//
// Files that fill a table use no inline functions of the standard library: the linker could keep the copy
// compiled for AVX512 and hand it to everyone.
#pragma once

#include <cstdint>
#include <vector>

namespace penstock::cpu {

constexpr int kPanel = 32;       // columns of a weight panel
constexpr int kStepBytes = 128;  // one step of a panel: 32 words
constexpr int kTileRows =
    14;                      // rows of the widest matmul tile: 28 sums + 2 weights + 1 input in 32 registers
constexpr int kExtent = 64;  // positions attention takes at a time, aligned to the sequence's start
constexpr int kGroup = 16;   // positions of one K or V tile
constexpr int kGroups = kExtent / kGroup;
constexpr int kQueryRows = 6;     // query rows of the widest attention tile
constexpr int kSampleBlock = 64;  // logits summed as one piece when a token is drawn

/// sums_M32 (+)= x tile times `steps` steps of a panel. `fresh`: start from zero. `ahead`: what to prefetch
/// meanwhile, one line a step (streaming: two).
using MultiplyTile = void (*)(const uint32_t* x, const char* w, int64_t steps, float* sums, bool fresh,
                              const char* ahead);
struct TileTable {
  MultiplyTile rows[kTileRows];
};

/// A vector in one byte a value with a scale for all of them: codes -> value / scale, value = code x scale.
struct ScaledFormat {
  float (*quantize)(uint8_t* to, const float* from, int64_t n);  ///< returns the scale
  void (*widen)(float* to, const uint8_t* from, int64_t n, float scale);
};

/// One extent of the KV of one KV head, and where the next one begins. A K tile is [d][16 positions] of
/// float16 or float, a V tile [16 positions' words][d] words (of which values are the first value_dim); a
/// word is a pair of bf16 (two positions) or a float. With scales a tile is the 16 positions' scales, then
/// [d][16] or [16][d] bytes.
struct Extent {
  const void* k[kGroups];
  const void* v[kGroups];
  const void* next_k[kGroups];  // to be fetched meanwhile
};

/// The query rows that share that head, and what they have gathered so far. Owned by one thread at a time.
struct Queries {
  int rows = 0;            // M
  int64_t dim = 0;         // d
  int64_t value_dim = 0;   // d, or fewer: how many values of V are gathered
  int64_t padded_dim = 0;  // value_dim rounded up to 16
  float scale = 1;
  const float* q = nullptr;          // tiles of rows (tile_start): [d][rows]
  const int32_t* visible = nullptr;  // [M] positions of this extent a row sees, 0 ... 64
  float* scores = nullptr;           // [M][64] scratch
  float* factors = nullptr;          // [M] scratch
  float* largest = nullptr;          // [M] running maximum, -inf at first
  float* sum = nullptr;              // [M] running sum of weights, 0 at first
  float* out = nullptr;              // [M][padded_dim] running weighted sum of V, 0 at first
};

struct KernelTable {
  const char* name;
  int tile_rows;  // rows of the widest matmul tile whose sums stay in registers, at most kTileRows; decides
                  // no bits
  TileTable pair_tile, pair_tile_streaming;
  TileTable float_tile, float_tile_streaming;
  void (*pack_tile)(uint32_t* to, const char* from, int64_t stride, int rows, int64_t steps);
  void (*finish_row_f32)(float* y, const float* sums, const float* bias, int columns, bool add);
  void (*finish_row_bf16)(uint16_t* y, const float* sums, const float* bias, int columns, bool add);

  void (*attend_pairs)(const Extent&, const Queries&);
  void (*attend_floats)(const Extent&, const Queries&);
  void (*attend_e4m3)(const Extent&, const Queries&);
  void (*attend_int8)(const Extent&, const Queries&);
  /// to_d = out_d / sum
  void (*finish_query_f32)(float* to, const float* out, float sum, int64_t dim);
  void (*finish_query_bf16)(uint16_t* to, const float* out, float sum, int64_t dim);

  void (*widen)(float* to, const uint16_t* from, int64_t n);
  void (*narrow)(uint16_t* to, const float* from, int64_t n);
  void (*to_half)(uint16_t* to, const float* from, int64_t n);           ///< float16, saturating
  void (*from_half)(float* to, const uint16_t* from, int64_t n);         ///< float16
  void (*narrow_alternate)(uint16_t* to, const float* from, int64_t n);  ///< into to[0], to[2], ...
  void (*rms_norm_f32)(float* y, const float* x, const float* weight, int64_t n, float eps);
  void (*rms_norm_bf16)(uint16_t* y, const float* x, const float* weight, int64_t n, float eps);
  /// In place: pairs i, i + r of x by the angles of cos_sin_2r.
  void (*rotate)(float* x, const float* cos_sin_2r, int64_t r);
  void (*swiglu_f32_f32)(float* y, const float* gate, const float* up, int64_t n);
  void (*swiglu_f32_bf16)(uint16_t* y, const float* gate, const float* up, int64_t n);
  void (*swiglu_bf16_f32)(float* y, const uint16_t* gate, const uint16_t* up, int64_t n);
  void (*swiglu_bf16_bf16)(uint16_t* y, const uint16_t* gate, const uint16_t* up, int64_t n);

  ScaledFormat e4m3, int8;
  /// 1/256 of FP8 values: exact, and never subnormal where processors flush such numbers.
  void (*widen_e4m3_f32)(float* to, const uint8_t* from, int64_t n);
  void (*widen_e4m3_bf16)(uint16_t* to, const uint8_t* from, int64_t n);
  /// y += a b, element by element
  void (*add_product)(float* y, const float* a, const float* b, int64_t n);
  /// y += w x
  void (*add_scaled)(float* y, const float* x, float w, int64_t n);

  /// largest[b] of each block of 64; true if every value is finite or -inf
  bool (*block_maxima)(float* largest, const float* x, int64_t n);
  /// w = exp((x - largest) / temperature), 0 where that is below `least`; sums[b] of each block of 64 if not
  /// null
  void (*weights)(float* w, float* sums, const float* x, int64_t n, float largest, float temperature,
                  float least);

  /// Runs `count` rounds of independent multiply-adds on registers; returns how many floating-point
  /// operations that was. For measuring the peak.
  int64_t (*pair_peak)(int64_t count);
  int64_t (*float_peak)(int64_t count);
  /// Reads every line once.
  float (*read_all)(const void* p, int64_t bytes);
};

/// How `rows` rows are cut into `tiles` tiles whose sizes differ by at most one: tile t starts here.
constexpr int64_t tile_start(int64_t rows, int64_t tiles, int64_t t) {
  return t * (rows / tiles) + (t < rows % tiles ? t : rows % tiles);
}
constexpr int64_t tiles_for(int64_t rows, int64_t most) {
  return (rows + most - 1) / most;
}

const KernelTable& portable_kernels();
/// The tables this processor can run, the best one first.
std::vector<const KernelTable*> available_kernels();
/// Tells the processor that this thread polls, where it has a word for that.
void pause();

}  // namespace penstock::cpu
