// Attention over cached latents: against the plain reference, and the same bits however a sequence is cut.
#include <algorithm>
#include <cmath>

#include "runtime/model/kv_cache.h"
#include "tests/unit/kernel_testing.h"

namespace penstock::testing {
namespace {

struct Sizes {
  int64_t heads, plain, latent, rope;
};

/// Two sequences whose projections are fixed in advance, fed to the operations in any cut.
class Latents {
 public:
  Latents(Device& device, Values& values, Sizes sizes, DType dtype, DType cache_dtype, int64_t block_size,
          bool interleave)
      : values_(values), sizes_(sizes), dtype_(dtype), block_size_(block_size), interleave_(interleave) {
    const auto [h, n, l, r] = sizes;
    for (const int64_t length : kLengths) {
      q_.push_back(values.random(DType::f32, {length, h, n + r}, 2));
      latent_.push_back(values.random(DType::f32, {length, l + r}, 2));
      out_.push_back(values.poisoned(dtype, {length, h, l}));
    }
    norm_ = values.random(DType::f32, {l});
    angles_ = values.random(DType::f32, {kLengths[0], r});
    up_ = values.random(DType::f32, {l, n});
    blocks_a_row_ = kLengths[0] / block_size + 1;
    cache_memory_ =
        device.tensor(DType::i8, {2 * blocks_a_row_, block_size * latent_position_bytes(l, r, cache_dtype)});
    cache_ = {cache_memory_.view.data, cache_dtype, 2 * blocks_a_row_, l, r, block_size};
    poison_cache();
    for (int64_t b = 0; b < 2 * blocks_a_row_; ++b)  // the rows' blocks alternate
      table_.push_back(static_cast<int32_t>(b % blocks_a_row_ * 2 + b / blocks_a_row_));
  }

  /// All positions in chunks of `chunk`, both rows together or one after the other.
  std::vector<Tensor> run(Ops& ops, int64_t chunk, bool together) {
    for (int64_t start = 0; start < kLengths[0]; start += chunk) {
      if (together) {
        step(ops, {0, 1}, start, chunk);
      } else {
        step(ops, {1}, start, chunk);
        step(ops, {0}, start, chunk);
      }
    }
    std::vector<Tensor> result;
    for (Tensor& out : out_) {
      result.push_back(out);
      out = values_.poisoned(dtype_, out.view.shape);
    }
    poison_cache();
    return result;
  }

 private:
  static constexpr int64_t kLengths[] = {150, 67};

  /// Every scale and every element that can be one is NaN: in all formats that is all ones.
  void poison_cache() { std::memset(cache_.data, 0xFF, cache_memory_.view.bytes()); }

  void step(Ops& ops, const std::vector<int64_t>& rows, int64_t start, int64_t chunk) {
    const auto [h, n, l, r] = sizes_;
    std::vector<int32_t> positions, row_of, starts{0}, context, table;
    std::vector<int64_t> owners;
    for (const int64_t row : rows) {
      const int64_t end = std::min(kLengths[row], start + chunk);
      if (end <= start) continue;
      for (int64_t p = start; p < end; ++p) {
        positions.push_back(static_cast<int32_t>(p));
        row_of.push_back(static_cast<int32_t>(owners.size()));
      }
      owners.push_back(row);
      starts.push_back(static_cast<int32_t>(positions.size()));
      context.push_back(static_cast<int32_t>(end));
      const auto first = table_.begin() + row * blocks_a_row_;
      table.insert(table.end(), first, first + blocks_a_row_);
    }
    const auto tokens = static_cast<int64_t>(positions.size());
    if (tokens == 0) return;
    const BatchView batch{tokens,
                          static_cast<int64_t>(owners.size()),
                          positions.data(),
                          row_of.data(),
                          starts.data(),
                          context.data(),
                          table.data(),
                          blocks_a_row_,
                          *std::max_element(context.begin(), context.end())};
    const Tensor q = values_.poisoned(DType::f32, {tokens, h, n + r});
    const Tensor latent = values_.poisoned(DType::f32, {tokens, l + r});
    for (size_t i = 0; i < owners.size(); ++i) {
      const auto row = static_cast<size_t>(owners[i]);
      const int64_t count = starts[i + 1] - starts[i];
      const auto part = [&](const Tensor& t) { return t.view.rows(starts[i], count); };
      std::memcpy(part(q).data, q_[row].view.rows(start, count).data, part(q).bytes());
      std::memcpy(part(latent).data, latent_[row].view.rows(start, count).data, part(latent).bytes());
    }
    const Tensor plain = values_.poisoned(dtype_, {tokens, h, n});
    const Tensor query = values_.poisoned(DType::f32, {tokens, h, l + r});
    const Tensor out = values_.poisoned(dtype_, {tokens, h, l});
    std::vector<std::unique_ptr<Matrix>> up;
    std::vector<const Matrix*> up_pointers;
    for (int64_t i = 0; i < h; ++i) {
      up.push_back(ops.make_matrix(l, n, dtype_));
      ops.load_rows(*up.back(), 0, up_);
      up_pointers.push_back(up.back().get());
    }
    ops.latent_rope_and_store(query, plain, cache_, q, latent, {angles_, interleave_, norm_, 1e-6F}, batch);
    ops.matmul_by_head(query, plain, up_pointers);
    ops.latent_attention(out, query, cache_, batch, 0.3F);
    for (size_t i = 0; i < owners.size(); ++i) {
      const int64_t count = starts[i + 1] - starts[i];
      const TensorView to = out_[static_cast<size_t>(owners[i])].view.rows(start, count);
      std::memcpy(to.data, out.view.rows(starts[i], count).data, to.bytes());
    }
  }

  Values& values_;
  Sizes sizes_;
  DType dtype_;
  int64_t block_size_;
  bool interleave_;
  std::vector<Tensor> q_, latent_, out_;
  Tensor norm_, angles_, up_, cache_memory_;
  LatentCacheView cache_;
  std::vector<int32_t> table_;
  int64_t blocks_a_row_ = 0;
};

class LatentAttentionTest : public OnEveryKernelTable {};

constexpr std::pair<DType, DType> kDtypes[] = {{DType::f32, DType::f32},
                                               {DType::bf16, DType::bf16},
                                               {DType::f32, DType::e4m3},
                                               {DType::bf16, DType::i8}};
constexpr Sizes kSizes[] = {{4, 16, 32, 8}, {3, 10, 20, 6}, {1, 5, 7, 2}, {70, 8, 16, 4}};

TEST_P(LatentAttentionTest, GivesTheSameBitsForPrefillChunksAndDecode) {
  const auto fast = ops(2);
  const auto one_thread = ops(1);
  for (const Sizes& sizes : kSizes)
    for (const auto& [dtype, cache_dtype] : kDtypes) {
      SCOPED_TRACE(std::to_string(sizes.heads) + " heads " + name_of(dtype) + name_of(cache_dtype));
      Latents latents(*device_, values_, sizes, dtype, cache_dtype, 16, true);
      const std::vector<Tensor> at_once = latents.run(*fast, 1000, true);
      for (const int64_t chunk : {33, 1}) {
        const std::vector<Tensor> in_chunks = latents.run(*one_thread, chunk, false);
        for (size_t row = 0; row < at_once.size(); ++row)
          ASSERT_TRUE(same_bits(in_chunks[row], at_once[row])) << "chunks of " << chunk << ", row " << row;
      }
    }
}

TEST_P(LatentAttentionTest, MatchesTheReference) {
  const auto reference = make_reference_ops(*device_);
  const auto fast = ops(2);
  for (const Sizes& sizes : kSizes)
    for (const auto& [dtype, cache_dtype] : kDtypes)
      for (const bool interleave : {false, true}) {
        SCOPED_TRACE(std::to_string(sizes.heads) + " heads " + name_of(dtype) + name_of(cache_dtype));
        Latents latents(*device_, values_, sizes, dtype, cache_dtype, interleave ? 7 : 16, interleave);
        const std::vector<Tensor> expected = latents.run(*reference, 1000, true);
        const std::vector<Tensor> found = latents.run(*fast, 1000, true);
        for (size_t row = 0; row < found.size(); ++row)
          expect_close(found[row], expected[row], dtype == DType::bf16 ? 0.01 : 2e-5, rounding(dtype));
      }
}

INSTANTIATE_TEST_SUITE_P(Kernels, LatentAttentionTest, ::testing::ValuesIn(cpu::available_kernels()),
                         kernel_name);

}  // namespace
}  // namespace penstock::testing
