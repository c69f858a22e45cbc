#include <cstring>

#include "kernels/cpu/cache_rounding.h"
#include "kernels/cpu/kv_layout.h"
#include "kernels/cpu/rows.h"

namespace penstock::cpu {
namespace {

/// Writes one position's K or V of one head, given as floats, into the cache.
class CacheWriter {
 public:
  CacheWriter(const KernelTable& kernels, const KvCacheView& cache, const BatchView& batch)
      : kernels_(kernels), layout_(cache), batch_(batch), d_(cache.head_dim) {}

  /// `narrow_d` is room for d elements of two bytes, `wide_d` for d floats.
  void store(int64_t token, int64_t kv_head, bool value, const float* head_d, uint16_t* narrow_d,
             float* wide_d, CacheRounding& rounding) const {
    const int64_t row = batch_.row_of_T[token];
    const int64_t position = batch_.positions_T[token];
    const int64_t size = layout_.cache.block_size;
    const int64_t block = batch_.block_table_RB[row * batch_.table_stride + position / size];
    char* part = layout_.part(block, kv_head, value);
    const int64_t in_block = position % size;
    if (layout_.scaled) {
      auto* codes_d = reinterpret_cast<uint8_t*>(narrow_d);
      const float scale = store_codes(part, in_block, value, head_d, codes_d);
      if (looks_at_rounding(position))
        add_rounding(scaled_format(kernels_, layout_.cache.dtype), head_d, codes_d, scale, d_, wide_d,
                     rounding);
      return;
    }
    if (!layout_.tiled) {
      store_plain(part + static_cast<size_t>(in_block * d_) * layout_.element_bytes(), value, head_d);
      return;
    }
    char* tile = part + static_cast<size_t>(in_block / kTilePositions) * layout_.tile_bytes;
    const int64_t i = in_block % kTilePositions;
    if (value)
      store_value(tile, i, head_d, position + 1 == batch_.context_R[row]);
    else
      store_key(tile, i, head_d, narrow_d);
  }

 private:
  /// Returns the scale.
  float store_codes(char* part, int64_t in_block, bool value, const float* head_d, uint8_t* codes_d) const {
    const float scale = scaled_format(kernels_, layout_.cache.dtype).quantize(codes_d, head_d, d_);
    const int64_t positions = layout_.tiled ? kTilePositions : layout_.cache.block_size;
    char* tile = part + static_cast<size_t>(in_block / positions) * layout_.tile_bytes;
    const int64_t i = in_block % positions;
    std::memcpy(tile + static_cast<size_t>(i) * sizeof scale, &scale, sizeof scale);
    auto* codes = reinterpret_cast<uint8_t*>(tile) + layout_.scale_bytes(positions);
    if (value || !layout_.tiled)
      std::memcpy(codes + i * d_, codes_d, static_cast<size_t>(d_));
    else
      for (int64_t j = 0; j < d_; ++j) codes[j * kTilePositions + i] = codes_d[j];
    return scale;
  }

  void store_plain(char* to, bool value, const float* head_d) const {
    if (layout_.pairs)
      (value ? kernels_.narrow : kernels_.to_half)(reinterpret_cast<uint16_t*>(to), head_d, d_);
    else
      std::memcpy(to, head_d, static_cast<size_t>(d_) * sizeof(float));
  }

  void store_key(char* tile, int64_t i, const float* head_d, uint16_t* narrow_d) const {
    if (layout_.pairs) {
      kernels_.to_half(narrow_d, head_d, d_);
      auto* to = reinterpret_cast<uint16_t*>(tile) + i;
      for (int64_t j = 0; j < d_; ++j) to[j * kTilePositions] = narrow_d[j];
    } else {
      auto* to = reinterpret_cast<float*>(tile) + i;
      for (int64_t j = 0; j < d_; ++j) to[j * kTilePositions] = head_d[j];
    }
  }

  /// The last position of a row also clears its unwritten partner: attention multiplies pairs, and 0 times
  /// what was there before may be NaN.
  void store_value(char* tile, int64_t i, const float* head_d, bool last) const {
    if (!layout_.pairs) {
      std::memcpy(tile + i * d_ * 4, head_d, static_cast<size_t>(d_) * sizeof(float));
      return;
    }
    auto* pairs = reinterpret_cast<uint16_t*>(tile + i / 2 * d_ * 4);
    kernels_.narrow_alternate(pairs + i % 2, head_d, d_);
    if (last && i % 2 == 0)
      for (int64_t j = 0; j < d_; ++j) pairs[2 * j + 1] = 0;
  }

  const KernelTable& kernels_;
  KvLayout layout_;
  const BatchView& batch_;
  int64_t d_;
};

}  // namespace

void rope_and_store(const KernelTable& kernels, Team& team, std::vector<std::vector<float>>& scratch,
                    std::vector<CacheRounding>& rounding, const HeadShape& shape, const TensorView& q_THd,
                    const KvCacheView& cache, const TensorView& qkv_TN, const RotaryView& rotary,
                    const BatchView& batch) {
  const auto [h, g, d] = shape;
  const int64_t all = h + 2 * g;
  const CacheWriter writer(kernels, cache, batch);
  for (auto& s : scratch) s.resize(std::max(s.size(), static_cast<size_t>(3 * d)));

  team.share(batch.tokens, 1, [&, h = h, g = g, d = d](int thread, int64_t begin, int64_t end) {
    float* head_d = scratch[static_cast<size_t>(thread)].data();
    auto* narrow_d = reinterpret_cast<uint16_t*>(head_d + d);
    CacheRounding& lost = rounding[static_cast<size_t>(thread)];
    for (int64_t t = begin; t < end; ++t)
      for (int64_t j = 0; j < all; ++j) {
        const int64_t from = (t * all + j) * d;
        if (qkv_TN.dtype == DType::bf16)
          kernels.widen(head_d, qkv_TN.as<const uint16_t>() + from, d);
        else
          std::memcpy(head_d, qkv_TN.as<const float>() + from, static_cast<size_t>(d) * sizeof(float));
        if (j < h + g) {
          const TensorView& norm = j < h ? rotary.q_norm_d : rotary.k_norm_d;
          if (norm.data != nullptr)
            kernels.rms_norm_f32(head_d, head_d, norm.as<const float>(), d, rotary.norm_eps);
          const float* angles =
              rotary.cos_sin_P2r.as<const float>() + batch.positions_T[t] * rotary.rotary_dim;
          kernels.rotate(head_d, angles, rotary.rotary_dim / 2);
        }
        if (j >= h)
          writer.store(t, (j - h) % g, j >= h + g, head_d, narrow_d, head_d + 2 * d, lost);
        else if (q_THd.dtype == DType::bf16)
          kernels.narrow(q_THd.as<uint16_t>() + (t * h + j) * d, head_d, d);
        else
          std::memcpy(q_THd.as<float>() + (t * h + j) * d, head_d, static_cast<size_t>(d) * sizeof(float));
      }
  });
}

}  // namespace penstock::cpu
