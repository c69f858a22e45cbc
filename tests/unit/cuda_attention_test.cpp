// Rotary positions and paged attention of the CUDA back end: against the plain reference, and against itself
// for prefill at once, in chunks and token by token.
#include "tests/unit/cuda_fixtures.h"

namespace penstock::test {
namespace {

struct Heads {
  int64_t h, g, d;
  int64_t block_size = 16;
};

/// A row of a micro-batch: so many new tokens behind so many that are stored.
struct RowPart {
  int64_t row;
  int64_t start;
  int64_t count;
};

class CudaAttention : public CudaTest {
 protected:
  static constexpr int64_t kRows = 24;
  static constexpr int64_t kBlocksARow = 80;

  /// Index arrays of one micro-batch, both places. Blocks of a row lie scattered over the cache.
  struct Batch {
    Twin positions, row_of, starts, context, table;
    BatchView host, gpu;
  };

  Batch batch(const std::vector<RowPart>& parts, int64_t block_size) {
    std::vector<int32_t> positions, row_of, starts{0}, context, table;
    int64_t longest = 0;
    for (const RowPart& part : parts) longest = std::max(longest, part.start + part.count);
    const int64_t stride = (longest + block_size - 1) / block_size;
    for (const RowPart& part : parts) {
      for (int64_t i = 0; i < part.count; ++i) {
        positions.push_back(static_cast<int32_t>(part.start + i));
        row_of.push_back(static_cast<int32_t>(context.size()));
      }
      starts.push_back(static_cast<int32_t>(positions.size()));
      context.push_back(static_cast<int32_t>(part.start + part.count));
      for (int64_t b = 0; b < stride; ++b)
        table.push_back(static_cast<int32_t>(kRows * kBlocksARow - 1 - (b * kRows + part.row)));
    }
    Batch made{of(positions), of(row_of), of(starts), of(context), of(table), {}, {}};
    const auto view = [&](auto side) {
      const auto p = [&](const Twin& twin) { return (twin.*side).view.template as<const int32_t>(); };
      return BatchView{static_cast<int64_t>(positions.size()),
                       static_cast<int64_t>(parts.size()),
                       p(made.positions),
                       p(made.row_of),
                       p(made.starts),
                       p(made.context),
                       p(made.table),
                       stride,
                       longest};
    };
    made.host = view(&Twin::host);
    made.gpu = view(&Twin::gpu);
    return made;
  }

  Twin cache(const Heads& heads, DType dtype) {
    return poisoned(dtype, {kRows * kBlocksARow, 2, heads.g * heads.block_size, heads.d});
  }
  static KvCacheView view(const Tensor& cache, const Heads& heads) {
    return {cache.view.data, cache.view.dtype, kRows * kBlocksARow, heads.g, heads.d, heads.block_size};
  }

  /// Attention outputs [tokens, H d] of `parts` of sequences whose projections are rows of
  /// qkv_N[row][position].
  std::vector<std::byte> attend(const std::vector<RowPart>& parts, const Heads& heads,
                                const Twin& cache_memory, const Twin& qkv_all, int64_t positions,
                                const Twin& angles) {
    const DType dtype = qkv_all.gpu.view.dtype;
    const Batch b = batch(parts, heads.block_size);
    std::vector<int32_t> which;
    for (const RowPart& part : parts)
      for (int64_t i = 0; i < part.count; ++i)
        which.push_back(static_cast<int32_t>(part.row * positions + part.start + i));
    const Twin rows = of(which);
    const int64_t tokens = b.gpu.tokens;
    const Twin qkv = poisoned(dtype, {tokens, qkv_all.gpu.view.dim(1)});
    const Twin q = poisoned(ops_->projection_dtype(dtype), {tokens, heads.h * heads.d}),
               out = poisoned(dtype, {tokens, heads.h * heads.d});
    ops_->gather_rows(qkv.gpu, qkv_all.gpu, rows.gpu.view.as<const int32_t>());
    ops_->rope_and_store(q.gpu, view(cache_memory.gpu, heads), qkv.gpu, {angles.gpu, heads.d, {}, {}, 0},
                         b.gpu);
    ops_->attention(out.gpu, q.gpu, view(cache_memory.gpu, heads), b.gpu, 0.2F);
    return bytes_of_rows(out.gpu, 0, tokens);
  }
};

TEST_F(CudaAttention, RotatesStoresAndAttendsLikeTheReference) {
  for (const DType dtype : {DType::f32, DType::bf16})
    for (const Heads& heads : {Heads{4, 2, 20}, Heads{4, 4, 16}, Heads{6, 2, 32}, Heads{8, 1, 64, 5},
                               Heads{8, 2, 128}, Heads{20, 1, 64}, Heads{2, 2, 256}})
      for (const bool norms : {false, true}) {
        // With norms, the query in the dtype of projections, which is what a stage passes.
        const DType query = norms ? ops_->projection_dtype(dtype) : dtype;
        SCOPED_TRACE(Shape({heads.h, heads.g, heads.d}).text() + name_of(dtype) +
                     (norms ? " with norms" : ""));
        const Twin memory = cache(heads, dtype),
                   angles = random(DType::f32, {400, heads.d / 2 / 2 * 2}, 0.7F);
        const Twin q_norm = random(DType::f32, {heads.d}), k_norm = random(DType::f32, {heads.d});
        const auto rotary = [&](auto side) {
          const auto weight = [&](const Twin& twin) { return norms ? (twin.*side).view : TensorView{}; };
          return RotaryView{(angles.*side).view, angles.host.view.dim(1), weight(q_norm), weight(k_norm),
                            1e-6F};
        };
        // Row 0 in two chunks, row 1 at once, then both decode beside the prefill of row 2.
        for (const auto& parts : {std::vector<RowPart>{{0, 0, 70}, {1, 0, 9}, {3, 0, 1}},
                                  {{0, 70, 230}},
                                  {{2, 0, 130}, {0, 300, 1}, {1, 9, 2}, {3, 1, 1}}}) {
          const Batch b = batch(parts, heads.block_size);
          const Twin qkv = random(dtype, {b.host.tokens, (heads.h + 2 * heads.g) * heads.d});
          const Twin q = poisoned(query, {b.host.tokens, heads.h, heads.d});
          const Twin out = poisoned(dtype, {b.host.tokens, heads.h, heads.d});
          ops_->rope_and_store(q.gpu, view(memory.gpu, heads), qkv.gpu, rotary(&Twin::gpu), b.gpu);
          reference_->rope_and_store(q.host, view(memory.host, heads), qkv.host, rotary(&Twin::host), b.host);
          expect_close(q, tolerance(query));
          ops_->attention(out.gpu, q.gpu, view(memory.gpu, heads), b.gpu, 0.1F);
          reference_->attention(out.host, q.host, view(memory.host, heads), b.host, 0.1F);
          expect_close(out, dtype == DType::bf16 ? 1e-2 : 1e-5);
        }
      }
}

TEST_F(CudaAttention, PrefillAtOnceInChunksAndTokenByTokenGiveTheSameBits) {
  constexpr int64_t kPositions = 600;  // three extents
  for (const DType dtype : {DType::bf16, DType::f32})
    for (const Heads& heads : {Heads{8, 2, 128}, Heads{6, 2, 32}, Heads{4, 1, 64}, Heads{4, 4, 16}}) {
      SCOPED_TRACE(Shape({heads.h, heads.g, heads.d}).text() + name_of(dtype));
      const Twin angles = random(DType::f32, {kPositions, heads.d}, 0.7F);
      const Twin qkv = random(dtype, {kRows * kPositions, (heads.h + 2 * heads.g) * heads.d});
      const auto run = [&](const std::vector<RowPart>& parts, const Twin& memory) {
        return attend(parts, heads, memory, qkv, kPositions, angles);
      };
      const std::vector<std::byte> at_once = run({{0, 0, kPositions}}, cache(heads, dtype));
      const size_t token = at_once.size() / kPositions;
      const auto expect_same = [&](const std::vector<std::byte>& found, int64_t first, int64_t count) {
        const auto begin = at_once.begin() + static_cast<std::ptrdiff_t>(static_cast<size_t>(first) * token);
        EXPECT_TRUE(std::equal(
            found.begin(), found.begin() + static_cast<std::ptrdiff_t>(static_cast<size_t>(count) * token),
            begin))
            << "positions from " << first;
      };
      for (const int64_t chunk : {1, 3, 17, 100}) {
        SCOPED_TRACE("chunks of " + std::to_string(chunk));
        const Twin memory = cache(heads, dtype);
        for (int64_t first = 0; first < kPositions; first += chunk) {
          const int64_t count = std::min(chunk, kPositions - first);
          // Beside other rows every other time: those that prefill, and so many that extents are not split.
          std::vector<RowPart> parts{{0, first, count}};
          if (first / chunk % 2 == 1)
            for (int64_t r = 1; r < kRows; ++r) parts.push_back({r, 0, r % 7 == 0 ? 33 : 1});
          expect_same(run(parts, memory), first, count);
          if (HasFailure()) return;
        }
      }
    }
}

TEST_F(CudaAttention, ManyRowsAndFewRowsGiveTheSameBits) {
  // The same decode in a batch that fills the device, where a block walks all extents, and alone, where they
  // are split.
  const Heads heads{8, 8, 64};
  constexpr int64_t kPositions = 700;
  const Twin angles = random(DType::f32, {kPositions, heads.d}, 0.7F);
  const Twin qkv = random(DType::bf16, {kRows * kPositions, (heads.h + 2 * heads.g) * heads.d});
  const Twin memory = cache(heads, DType::bf16);
  attend({{0, 0, kPositions - 1}}, heads, memory, qkv, kPositions, angles);
  std::vector<RowPart> crowd{{0, kPositions - 1, 1}};
  for (int i = 0; i < 400; ++i) crowd.push_back({1 + i % (kRows - 1), 0, 1});
  const auto among_many = attend(crowd, heads, memory, qkv, kPositions, angles);
  const auto alone = attend({crowd[0]}, heads, memory, qkv, kPositions, angles);
  EXPECT_TRUE(std::equal(alone.begin(), alone.end(), among_many.begin()));
}

}  // namespace
}  // namespace penstock::test
