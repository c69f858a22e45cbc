#include <algorithm>
#include <bit>
#include <cstdint>
#include <vector>

#include "runtime/base/rng.h"
#include "runtime/model/weight_source.h"

namespace penstock {
namespace {

constexpr int64_t kChunkElements = 1 << 21;

/// A bijection of 64 bits (SplitMix64's finaliser, Steele et al. 2014): good enough for weights that only
/// need to look alive, and a hundred times cheaper than Philox.
uint64_t mix(uint64_t x) {
  x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9ULL;
  x = (x ^ (x >> 27)) * 0x94D049BB133111EBULL;
  return x ^ (x >> 31);
}

/// (2b - 255) / 8192 for a byte b: an odd number of at most 8 bits, so exact in bfloat16; standard deviation
/// 0.018, as models are initialised.
uint16_t weight_bits(uint64_t byte) {
  const float value = static_cast<float>(2 * static_cast<int32_t>(byte) - 255) * 0x1p-13F;
  return static_cast<uint16_t>(std::bit_cast<uint32_t>(value) >> 16);
}

constexpr uint16_t kOne = 0x3F80;

class DummyWeights final : public WeightSource {
 public:
  explicit DummyWeights(uint64_t seed) : seed_(seed) {}

  void read(const std::string& name, const Shape& expected, const TakeRows& take) override {
    ensure(expected.rank() == 1 || expected.rank() == 2, "weights have one or two dimensions");
    const int64_t rows = expected[0];
    const int64_t columns = expected.rank() == 2 ? expected[1] : 1;
    const int64_t step = std::max<int64_t>(1, kChunkElements / columns);
    const uint64_t key = stable_hash(name, seed_);
    for (int64_t first = 0; first < rows; first += step) {
      const int64_t count = std::min(step, rows - first);
      if (name.ends_with("norm.weight")) {
        values_.assign(static_cast<size_t>(count * columns), kOne);
        take(first, view(0, expected, count, columns));
      } else {
        take(first, view(fill(key, first * columns, count * columns), expected, count, columns));
      }
    }
  }

  bool is_fp8(const std::string&) const override { return false; }
  void read_fp8(const std::string& name, const Shape&, const TakeRows&) override {
    throw Error("internal error: dummy weight " + name + ": expected to be read as bfloat16");
  }

  void check(const std::string&, const Shape&) const override {}  // made in any shape
  void announce(const std::string&) const override {}

  int64_t bytes_read() const override { return 0; }

 private:
  /// Makes elements [first, first + count), eight from each hash; returns where in values_ the first one
  /// stands.
  size_t fill(uint64_t key, int64_t first, int64_t count) {
    const int64_t first_block = first / 8;
    const int64_t end_block = (first + count + 7) / 8;
    values_.resize(static_cast<size_t>(end_block - first_block) * 8);
    uint16_t* out = values_.data();
    for (int64_t block = first_block; block < end_block; ++block) {
      const uint64_t bits = mix(key + 0x9E3779B97F4A7C15ULL * static_cast<uint64_t>(block));
      for (int i = 0; i < 8; ++i) *out++ = weight_bits((bits >> (8 * i)) & 0xFF);
    }
    return static_cast<size_t>(first - first_block * 8);
  }

  TensorView view(size_t offset, const Shape& expected, int64_t count, int64_t columns) {
    return {values_.data() + offset, DType::bf16,
            expected.rank() == 2 ? Shape{count, columns} : Shape{count}};
  }

  uint64_t seed_;
  std::vector<uint16_t> values_;
};

}  // namespace

std::unique_ptr<WeightSource> make_dummy_weights(uint64_t seed) {
  return std::make_unique<DummyWeights>(seed);
}

}  // namespace penstock
