#include <cstring>

#include "kernels/cpu/cache_rounding.h"
#include "kernels/cpu/latent_layout.h"
#include "kernels/cpu/rows.h"

namespace penstock::cpu {
namespace {

/// to_r = from_r rotated; pairs that lie side by side are first taken apart, in q and k alike.
void rotate_part(const KernelTable& kernels, float* to_r, const float* from_r, int64_t r,
                 const LatentRotaryView& rotary, int64_t position) {
  if (rotary.interleave) {
    for (int64_t i = 0; i < r / 2; ++i) {
      to_r[i] = from_r[2 * i];
      to_r[r / 2 + i] = from_r[2 * i + 1];
    }
  } else {
    std::memcpy(to_r, from_r, static_cast<size_t>(r) * sizeof(float));
  }
  kernels.rotate(to_r, rotary.cos_sin_P2r.as<const float>() + position * r, r / 2);
}

/// `room` is scratch for `count` floats; `rounding` is null where nobody looks.
void store_scaled(const KernelTable& kernels, const LatentLayout& layout, char* to, const float* values,
                  int64_t count, float* room, CacheRounding* rounding) {
  const ScaledFormat& format = scaled_format(kernels, layout.element);
  auto* codes = reinterpret_cast<uint8_t*>(to) + sizeof(float);
  const float scale = format.quantize(codes, values, count);
  std::memcpy(to, &scale, sizeof scale);
  if (rounding != nullptr) add_rounding(format, values, codes, scale, count, room, *rounding);
}

}  // namespace

void latent_rope_and_store(const KernelTable& kernels, Team& team, std::vector<std::vector<float>>& scratch,
                           std::vector<CacheRounding>& rounding, const LatentShape& shape,
                           const TensorView& q_THd, const TensorView& plain_THn, const LatentCacheView& cache,
                           const TensorView& q_THe, const TensorView& latent_TL,
                           const LatentRotaryView& rotary, const BatchView& batch) {
  const auto [h, n, l, r] = shape;
  const LatentLayout layout(cache);
  for (auto& s : scratch) s.resize(std::max(s.size(), static_cast<size_t>(2 * (l + r))));

  team.share(batch.tokens, 1, [&, h = h, n = n, l = l, r = r](int thread, int64_t begin, int64_t end) {
    float* row = scratch[static_cast<size_t>(thread)].data();
    for (int64_t t = begin; t < end; ++t) {
      const int64_t position = batch.positions_T[t];
      for (int64_t j = t * h; j < (t + 1) * h; ++j) {
        const float* q_e = q_THe.as<const float>() + j * (n + r);
        if (plain_THn.dtype == DType::bf16)
          kernels.narrow(plain_THn.as<uint16_t>() + j * n, q_e, n);
        else
          std::memcpy(plain_THn.as<float>() + j * n, q_e, static_cast<size_t>(n) * sizeof(float));
        rotate_part(kernels, q_THd.as<float>() + j * (l + r) + l, q_e + n, r, rotary, position);
      }
      const float* latent = latent_TL.as<const float>() + t * (l + r);
      kernels.rms_norm_f32(row, latent, rotary.norm_L.as<const float>(), l, rotary.norm_eps);
      rotate_part(kernels, row + l, latent + l, r, rotary, position);
      char* to = layout.position(batch, batch.row_of_T[t], position);
      if (layout.scaled) {
        CacheRounding* lost = looks_at_rounding(position) ? &rounding[static_cast<size_t>(thread)] : nullptr;
        store_scaled(kernels, layout, to, row, l, row + l + r, lost);
        store_scaled(kernels, layout, to + layout.key_at, row + l, r, row + l + r, lost);
      } else if (layout.element == DType::f16) {
        kernels.to_half(reinterpret_cast<uint16_t*>(to), row, l + r);
      } else {
        std::memcpy(to, row, layout.bytes);
      }
    }
  });
}

}  // namespace penstock::cpu
