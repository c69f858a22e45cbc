// Counter-based random numbers: Philox 4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3",
// SC'11). No state: the same key and counter give the same bits on every device, whatever ran before.
#pragma once

#include <array>
#include <cstdint>
#include <string_view>

namespace penstock {

std::array<uint32_t, 4> philox(uint64_t key, uint64_t counter_low, uint64_t counter_high = 0);

/// Uniform in (0, 1) from 32 random bits: never 0, never 1.
inline float uniform_open(uint32_t bits) {
  return (static_cast<float>(bits >> 9) + 0.5F) * 0x1p-23F;
}

/// Stable 64-bit hash (FNV-1a, then a finaliser), for keys; not for untrusted tables.
uint64_t stable_hash(std::string_view text, uint64_t seed = 0);

}  // namespace penstock
