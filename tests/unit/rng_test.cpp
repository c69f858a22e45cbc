#include "runtime/base/rng.h"

#include <gtest/gtest.h>

namespace penstock {
namespace {

// From the known-answer file of Random123 (kat_vectors, "philox 4x32 10").
TEST(Philox, GivesThePublishedAnswers) {
  using Words = std::array<uint32_t, 4>;
  EXPECT_EQ(philox(0, 0, 0), (Words{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}));
  constexpr uint64_t kOnes = 0xFFFFFFFFFFFFFFFF;
  EXPECT_EQ(philox(kOnes, kOnes, kOnes), (Words{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}));
  EXPECT_EQ(philox(0x299f31d0a4093822, 0x85a308d3243f6a88, 0x0370734413198a2e),
            (Words{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}));
}

TEST(UniformOpen, NeverReachesItsEnds) {
  EXPECT_GT(uniform_open(0), 0.0F);
  EXPECT_LT(uniform_open(0xFFFFFFFF), 1.0F);
}

TEST(StableHash, KeepsItsValuesBetweenReleases) {
  EXPECT_EQ(stable_hash(""), 0xefd01f60ba992926U);
  EXPECT_NE(stable_hash("row-1"), stable_hash("row-2"));
  EXPECT_NE(stable_hash("row-1", 1), stable_hash("row-1", 2));
}

}  // namespace
}  // namespace penstock
