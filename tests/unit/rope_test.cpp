// Against numbers that transformers 5.23 (LlamaRotaryEmbedding, head_dim 16) gives for the same parameters.
#include "runtime/model/rope.h"

#include <gtest/gtest.h>

namespace penstock {
namespace {

struct Reference {
  RopeConfig rope;
  std::vector<float> inverse_frequencies;
  float attention_factor;
  float cosine_of_pair1_at_977;
  float sine_of_pair1_at_977;
};

RopeYarn yarn(double factor, int64_t original) {
  RopeYarn y;
  y.factor = factor;
  y.original_max_position_embeddings = original;
  return y;
}

void expect_like(const Reference& reference) {
  const std::vector<float> found = rope_inverse_frequencies(reference.rope);
  ASSERT_EQ(found.size(), reference.inverse_frequencies.size());
  for (size_t i = 0; i < found.size(); ++i)
    EXPECT_FLOAT_EQ(found[i], reference.inverse_frequencies[i]) << "pair " << i;
  EXPECT_FLOAT_EQ(rope_attention_factor(reference.rope), reference.attention_factor);

  const size_t r = found.size();
  const std::vector<float> table = rope_table(reference.rope, 978);
  ASSERT_EQ(table.size(), 978 * 2 * r);
  const float* at = table.data() + 977 * 2 * r;
  EXPECT_NEAR(at[1], reference.cosine_of_pair1_at_977, 3e-5F);
  EXPECT_NEAR(at[r + 1], reference.sine_of_pair1_at_977, 3e-5F);
  EXPECT_FLOAT_EQ(table[0], reference.attention_factor) << "cos 0";
  EXPECT_EQ(table[r], 0.0F) << "sin 0";
}

TEST(Rope, DefaultTurnsAsTransformersDoes) {
  expect_like({{10000, 16, RopeDefault{}},
               {1, 0.316227764F, 0.100000001F, 0.0316227786F, 0.00999999978F, 0.00316227786F, 0.00100000005F,
                0.000316227786F},
               1,
               0.472695917F,
               0.881225586F});
}

TEST(Rope, LinearDividesEveryAngle) {
  expect_like({{10000, 16, RopeLinear{3}},
               {0.333333343F, 0.105409257F, 0.0333333351F, 0.0105409259F, 0.00333333318F, 0.00105409266F,
                0.000333333359F, 0.000105409265F},
               1,
               -0.772697091F,
               0.634774923F});
}

TEST(Rope, Llama3KeepsShortWavelengthsAndStretchesLongOnes) {
  expect_like({{500000, 16, RopeLlama3{8, 1, 4, 64}},
               {1, 0.079403013F, 0.00470075384F, 0.000911583134F, 0.000176776681F, 3.42810235e-05F,
                6.64786967e-06F, 1.28917316e-06F},
               1,
               -0.571000516F,
               0.820949674F});
}

TEST(Rope, YarnInterpolatesByPartsAndScalesTheTable) {
  expect_like({{10000, 16, yarn(4, 1024)},
               {1, 0.316227764F, 0.0812500045F, 0.0197642371F, 0.00437500002F, 0.000790569466F,
                0.000250000012F, 7.90569466e-05F},
               1.138629436111989F,
               0.538225472F,
               1.00338936F});
}

TEST(Rope, YarnWithoutTruncationAndWithItsOwnAttentionFactor) {
  RopeYarn y = yarn(8, 512);
  y.beta_fast = 16;
  y.beta_slow = 2;
  y.truncate = false;
  y.attention_factor = 1.3;
  expect_like({{1e6, 16, y},
               {1, 0.170414031F, 0.00732499966F, 0.000702926656F, 0.000125000006F, 2.22284925e-05F,
                3.95284678e-06F, 7.02926684e-07F},
               1.3F,
               -1.29993618F,
               0.0128747346F});
}

TEST(Rope, YarnTakesTheRatioOfTwoMscales) {
  RopeYarn y = yarn(40, 1024);
  y.mscale = 1.0;
  y.mscale_all_dim = 0.707;
  expect_like({{10000, 16, y},
               {1, 0.316227764F, 0.0756250024F, 0.0162066743F, 0.00268749986F, 7.90569466e-05F,
                2.49999994e-05F, 7.90569447e-06F},
               1.0857263992561355F,
               0.513218403F,
               0.956769884F});
}

}  // namespace
}  // namespace penstock
