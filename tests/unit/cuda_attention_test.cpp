// Rotary positions and paged attention of the CUDA back end: against the plain reference, and against itself
// for prefill at once, in chunks and token by token.
#include "tests/unit/cuda_attention_fixtures.h"

namespace penstock::test {
namespace {

constexpr Format kFormats[] = {{DType::f32, DType::f32},   {DType::bf16, DType::bf16},
                               {DType::bf16, DType::e4m3}, {DType::bf16, DType::i8},
                               {DType::f32, DType::e4m3},  {DType::f32, DType::i8}};

/// Over codes a value that lies between two of them may become either: its projection was rounded otherwise.
double attention_tolerance(const Format& format) {
  return format.dtype == DType::bf16 ? 1e-2 : has_scales(format.cache) ? 1e-3 : 1e-5;
}

TEST_F(CudaAttention, RotatesStoresAndAttendsLikeTheReference) {
  for (const Format& format : kFormats)
    for (const Heads& heads : {Heads{4, 2, 20}, Heads{4, 4, 16}, Heads{6, 2, 32}, Heads{8, 1, 64, 5},
                               Heads{8, 2, 128}, Heads{8, 1, 128, 48}, Heads{20, 1, 64}, Heads{2, 2, 256}})
      for (const bool norms : {false, true}) {
        const DType dtype = format.dtype;
        if (norms && has_scales(format.cache)) continue;  // they come before the cache
        // With norms, the query in the dtype of projections, which is what a stage passes.
        const DType query = norms ? ops_->projection_dtype(dtype) : dtype;
        SCOPED_TRACE(Shape({heads.h, heads.g, heads.d}).text() + format.text() +
                     (norms ? " with norms" : ""));
        const Twin memory = cache(heads, format.cache),
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
          expect_close(out, attention_tolerance(format));
        }
      }
}

TEST_F(CudaAttention, PrefillAtOnceInChunksAndTokenByTokenGiveTheSameBits) {
  constexpr int64_t kPositions = 600;  // three extents
  for (const DType dtype : {DType::bf16, DType::f32})
    for (const Heads& heads : {Heads{8, 2, 128}, Heads{6, 2, 32}, Heads{4, 1, 64}, Heads{4, 4, 16}}) {
      const Twin angles = random(DType::f32, {kPositions, heads.d}, 0.7F);
      const Twin qkv = random(dtype, {kRows * kPositions, (heads.h + 2 * heads.g) * heads.d});
      const auto run = [&](const std::vector<RowPart>& parts, const Twin& memory) {
        return attend(parts, heads, memory, qkv, kPositions, angles);
      };
      for (const DType kept : {dtype, DType::e4m3, DType::i8}) {
        const Format format{dtype, kept};
        SCOPED_TRACE(Shape({heads.h, heads.g, heads.d}).text() + format.text());
        const std::vector<std::byte> at_once = run({{0, 0, kPositions}}, cache(heads, kept));
        const size_t token = at_once.size() / kPositions;
        const auto expect_same = [&](const std::vector<std::byte>& found, int64_t first, int64_t count) {
          const auto begin =
              at_once.begin() + static_cast<std::ptrdiff_t>(static_cast<size_t>(first) * token);
          EXPECT_TRUE(std::equal(
              found.begin(), found.begin() + static_cast<std::ptrdiff_t>(static_cast<size_t>(count) * token),
              begin))
              << "positions from " << first;
        };
        for (const int64_t chunk : {1, 3, 17, 100}) {
          SCOPED_TRACE("chunks of " + std::to_string(chunk));
          const Twin memory = cache(heads, kept);
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
}

TEST_F(CudaAttention, ManyRowsAndFewRowsGiveTheSameBits) {
  // The same decode in a batch that fills the device, where a block walks all extents, and alone, where they
  // are split.
  for (const Heads& heads : {Heads{8, 8, 64}, Heads{16, 8, 128}, Heads{8, 8, 32}}) {
    constexpr int64_t kPositions = 700;
    const Twin angles = random(DType::f32, {kPositions, heads.d}, 0.7F);
    const Twin qkv = random(DType::bf16, {kRows * kPositions, (heads.h + 2 * heads.g) * heads.d});
    std::vector<RowPart> crowd{{0, kPositions - 1, 1}};
    for (int i = 0; i < 400; ++i) crowd.push_back({1 + i % (kRows - 1), 0, 1});
    for (const DType dtype : {DType::bf16, DType::e4m3, DType::i8}) {
      const Twin memory = cache(heads, dtype);
      attend({{0, 0, kPositions - 1}}, heads, memory, qkv, kPositions, angles);
      const auto among_many = attend(crowd, heads, memory, qkv, kPositions, angles);
      const auto alone = attend({crowd[0]}, heads, memory, qkv, kPositions, angles);
      EXPECT_TRUE(std::equal(alone.begin(), alone.end(), among_many.begin()))
          << "heads of " << heads.d << " over " << name_of(dtype);
    }
  }
}

}  // namespace
}  // namespace penstock::test
