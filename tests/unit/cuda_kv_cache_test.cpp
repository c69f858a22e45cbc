// A KV cache in one byte a value on a GPU: which codes and scales are stored, that attention reads each of
// them exactly, and what is told of their rounding. tests/unit/cuda_attention_test.cpp has the rest.
#include "kernels/cpu/cpu_ops.h"
#include "kernels/cpu/reference_cache.h"
#include "kernels/cuda/kv_layout.h"
#include "tests/unit/cuda_attention_fixtures.h"

namespace penstock::test {
namespace {

constexpr DType kCodes[] = {DType::e4m3, DType::i8};

class CudaKvCache : public CudaAttention {
 protected:
  /// Rotates by nothing, so that K is stored as it was projected.
  Twin no_angles(const Heads& heads) {
    Twin angles = random(DType::f32, {kBlocksARow * heads.block_size, heads.d});
    for (int64_t i = 0; i < angles.host.view.shape.elements(); ++i)
      angles.host.view.as<float>()[i] = i % heads.d < heads.d / 2 ? 1 : 0;
    gpu_->upload(angles.gpu.view.data, angles.host.view.data, angles.host.view.bytes());
    return angles;
  }
  Twin twin_of(const Shape& shape, const std::function<float(int64_t)>& value) {
    Twin twin = random(DType::f32, shape);
    for (int64_t i = 0; i < shape.elements(); ++i) twin.host.view.as<float>()[i] = value(i);
    gpu_->upload(twin.gpu.view.data, twin.host.view.data, twin.host.view.bytes());
    return twin;
  }
  /// Magnitudes over many powers of ten, some of them zero.
  Twin wide_range(const Shape& shape) {
    std::normal_distribution<float> normal(0, 1);
    const float size = std::pow(10.0F, 8 * normal(random_));
    return twin_of(shape,
                   [&](int64_t) { return random_() % 10 == 0 ? 0 : size * std::pow(normal(random_), 5.0F); });
  }
  std::vector<char> bytes_of_cache(const Tensor& cache) {
    std::vector<char> bytes(cache.view.bytes());
    gpu_->download(bytes.data(), cache.view.data, bytes.size());
    return bytes;
  }
};

TEST_F(CudaKvCache, StoresTheCodesAndScalesOfTheReference) {
  for (const DType dtype : kCodes)
    for (const Heads& heads : {Heads{4, 2, 64}, Heads{2, 1, 20, 5}, Heads{3, 3, 128, 24}}) {
      SCOPED_TRACE(Shape({heads.h, heads.g, heads.d}).text() + name_of(dtype));
      const Twin memory = cache(heads, dtype), angles = no_angles(heads);
      const Batch b = batch({{0, 0, 50}, {1, 0, 3}}, heads.block_size);
      const int64_t all = heads.h + 2 * heads.g;
      const Twin qkv = wide_range({b.host.tokens, all * heads.d});
      const Twin q = poisoned(DType::f32, {b.host.tokens, heads.h, heads.d});
      ops_->rope_and_store(q.gpu, view(memory.gpu, heads), qkv.gpu, {angles.gpu, heads.d, {}, {}, 0}, b.gpu);
      const std::vector<char> found = bytes_of_cache(memory.gpu);
      const char* scales =
          found.data() + (reinterpret_cast<const char*>(cuda::scales_of(view(memory.gpu, heads))) -
                          memory.gpu.view.as<const char>());
      for (int64_t t = 0; t < b.host.tokens; ++t)
        for (int64_t head = heads.h; head < all; ++head) {
          const int64_t position = b.host.positions_T[t];
          const int64_t block =
              b.host.block_table_RB[b.host.row_of_T[t] * b.host.table_stride + position / heads.block_size];
          const int64_t vector =
              (block * 2 * heads.g + head - heads.h) * heads.block_size + position % heads.block_size;
          std::vector<char> expected(static_cast<size_t>(kv_vector_bytes(heads.d, dtype)));
          cpu::write_vector(
              expected.data(), dtype,
              {qkv.host.view.as<const float>() + (t * all + head) * heads.d, static_cast<size_t>(heads.d)});
          if (dtype == DType::i8)  // a GPU keeps sign and magnitude
            for (auto code = expected.begin() + 4; code != expected.end(); ++code)
              if (*code < 0) *code = static_cast<char>(-128 - *code);
          ASSERT_EQ(std::memcmp(scales + vector * 4, expected.data(), 4), 0)
              << "token " << t << ", head " << head;
          ASSERT_EQ(
              std::memcmp(found.data() + vector * heads.d, expected.data() + 4, static_cast<size_t>(heads.d)),
              0)
              << "token " << t << ", head " << head;
        }
    }
}

TEST_F(CudaKvCache, ValuesOfEveryCodeAreReadExactly) {
  // A token that sees itself alone has its V for an answer. The largest code stands in each vector, so that
  // the scale is a power of two and bfloat16 holds every product.
  for (const DType dtype : kCodes)
    for (const int64_t dim : {16, 32, 64, 128})
      for (const int64_t count : {int64_t{1}, int64_t{40}}) {  // short rows, long rows
        const Heads heads{1, 1, dim};
        SCOPED_TRACE(Shape({dim, count}).text() + name_of(dtype));
        const bool fp8 = dtype == DType::e4m3;
        const auto value_of = [&](int64_t token, int64_t i) {
          const auto code = static_cast<uint8_t>(token * (dim - 1) + i - 1);
          if (i == 0 || (fp8 ? (code & 0x7F) == 0x7F : code == 0x80)) return (fp8 ? 448.0F : 127.0F) / 8;
          return (fp8 ? f32_from_e4m3(code) : static_cast<float>(static_cast<int8_t>(code))) / 8;
        };
        const Twin memory = cache(heads, dtype), angles = no_angles(heads);
        std::vector<RowPart> parts;
        for (int64_t row = 0; row < kRows; ++row) parts.push_back({row, 0, count});
        const Batch b = batch(parts, heads.block_size);
        const Twin qkv = twin_of({b.host.tokens, 3 * dim}, [&](int64_t i) {
          const int64_t token =
              i / (3 * dim) / count;  // rows repeat one token: whatever is weighed, the same
          return i % (3 * dim) < 2 * dim ? 0.25F : value_of(token, i % dim);
        });
        const Twin q = poisoned(DType::f32, {b.host.tokens, dim}),
                   out = poisoned(DType::bf16, {b.host.tokens, dim});
        ops_->rope_and_store(q.gpu, view(memory.gpu, heads), qkv.gpu, {angles.gpu, dim, {}, {}, 0}, b.gpu);
        ops_->attention(out.gpu, q.gpu, view(memory.gpu, heads), b.gpu, 0.1F);
        const std::vector<float> found = values_of(out.gpu);
        for (int64_t t = 0; t < b.host.tokens; ++t)
          for (int64_t i = 0; i < dim; ++i)
            ASSERT_EQ(found[static_cast<size_t>(t * dim + i)], value_of(t / count, i))
                << "token " << t << ", " << i;
      }
}

TEST_F(CudaKvCache, KeysWithOneOutlierKeepTheirSmallestCodes) {
  // The outlier, which queries do not look at, sets a scale under which all else is among FP8's subnormals.
  for (const DType dtype : kCodes)
    for (const Heads& heads : {Heads{4, 1, 128}, Heads{4, 2, 64}, Heads{2, 1, 32}, Heads{2, 2, 16}}) {
      SCOPED_TRACE(Shape({heads.h, heads.g, heads.d}).text() + name_of(dtype));
      const Twin memory = cache(heads, dtype), angles = no_angles(heads);
      const float outlier = dtype == DType::e4m3 ? 448 * 64 : 127;
      const int64_t width = (heads.h + 2 * heads.g) * heads.d;
      std::normal_distribution<float> normal(0, 1);
      for (const auto& parts : {std::vector<RowPart>{{0, 0, 300}}, {{0, 300, 1}}}) {
        const Batch b = batch(parts, heads.block_size);
        const Twin qkv = twin_of({b.host.tokens, width}, [&](int64_t i) {
          const int64_t head = i % width / heads.d;
          if (head >= heads.h + heads.g || i % heads.d != 0) return normal(random_);
          return head < heads.h ? 0 : outlier;
        });
        const Twin q = poisoned(DType::f32, {b.host.tokens, heads.h, heads.d});
        const Twin out = poisoned(DType::bf16, {b.host.tokens, heads.h, heads.d});
        ops_->rope_and_store(q.gpu, view(memory.gpu, heads), qkv.gpu, {angles.gpu, heads.d, {}, {}, 0},
                             b.gpu);
        reference_->rope_and_store(q.host, view(memory.host, heads), qkv.host,
                                   {angles.host, heads.d, {}, {}, 0}, b.host);
        ops_->attention(out.gpu, q.gpu, view(memory.gpu, heads), b.gpu, 0.3F);
        reference_->attention(out.host, q.host, view(memory.host, heads), b.host, 0.3F);
        expect_close(out, 1e-2);
      }
    }
}

TEST_F(CudaKvCache, HidesNoNan) {
  for (const DType dtype : kCodes)
    for (const int64_t dim : {20, 64}) {
      const Heads heads{2, 2, dim};
      const Twin memory = cache(heads, dtype), angles = no_angles(heads);
      const Batch b = batch({{0, 0, 2}}, heads.block_size);
      const Twin qkv = twin_of({2, 6 * dim}, [&](int64_t i) {  // in V of the first token's second head
        return i == 5 * dim + 3 ? std::numeric_limits<float>::quiet_NaN() : 1.0F;
      });
      const Twin q = poisoned(DType::f32, {2, 2 * dim}), out = poisoned(DType::bf16, {2, 2 * dim});
      ops_->rope_and_store(q.gpu, view(memory.gpu, heads), qkv.gpu, {angles.gpu, dim, {}, {}, 0}, b.gpu);
      ops_->attention(out.gpu, q.gpu, view(memory.gpu, heads), b.gpu, 0.1F);
      const std::vector<float> found = values_of(out.gpu);
      EXPECT_NEAR(found[0], 1, 1e-2);
      EXPECT_TRUE(std::isnan(found[static_cast<size_t>(dim)])) << name_of(dtype) << " " << dim;
    }
}

TEST_F(CudaKvCache, TellsWhatRoundingTookAsCpusDo) {
  const std::unique_ptr<Ops> cpu = make_cpu_ops(*host_, 1);
  const Heads heads{4, 2, 64};
  const Twin angles = no_angles(heads);
  for (const DType dtype : kCodes) {
    const Twin memory = cache(heads, dtype);
    const Batch b = batch({{0, 0, 50}, {1, 0, 9}}, heads.block_size);
    const Twin qkv = random(DType::bf16, {b.host.tokens, 8 * heads.d});
    const Twin q = poisoned(DType::f32, {b.host.tokens, heads.h, heads.d});
    ops_->rope_and_store(q.gpu, view(memory.gpu, heads), qkv.gpu, {angles.gpu, heads.d, {}, {}, 0}, b.gpu);
    cpu->rope_and_store(q.host, view(memory.host, heads), qkv.host, {angles.host, heads.d, {}, {}, 0},
                        b.host);
    const CacheRounding found = rounding_so_far(), expected = cpu->take_cache_rounding();
    EXPECT_GT(expected.error, 0);
    EXPECT_NEAR(found.error, expected.error, 1e-5 * expected.error);
    EXPECT_NEAR(found.kept, expected.kept, 1e-9 * expected.kept);
    EXPECT_EQ(rounding_so_far().kept, 0) << "told twice";
  }
}

}  // namespace
}  // namespace penstock::test
