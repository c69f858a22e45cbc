// Latent attention of the CUDA back end: against the plain reference, and against itself for prefill at once,
// in chunks and token by token, alone and in company.
#include "runtime/model/kv_cache.h"
#include "tests/unit/cuda_batches.h"

namespace penstock::test {
namespace {

struct Sizes {
  int64_t heads, plain, latent, rope;
  int64_t block_size = 16;

  int64_t width() const { return latent + rope; }
};

std::string name_of_case(const Sizes& s, DType out, DType cache) {
  return Shape({s.heads, s.plain, s.latent, s.rope}).text() + " " + name_of(out) + ", cache " +
         name_of(cache);
}

class CudaLatent : public CudaBatches {
 protected:
  static constexpr int64_t kPositions = 1200;  // the most a row has: three extents

  Batch batch(const std::vector<RowPart>& parts, int64_t block_size) {
    return CudaBatches::batch(parts, block_size, blocks(block_size));
  }
  static int64_t blocks(int64_t block_size) { return kRows * (kPositions / block_size + 1); }

  /// Poisoned: every scale and every element that can be one is NaN, in all formats all ones.
  Twin cache(const Sizes& s, DType dtype) {
    const int64_t words =
        (blocks(s.block_size) * s.block_size * latent_position_bytes(s.latent, s.rope, dtype) + 3) / 4;
    return of(std::vector<int32_t>(static_cast<size_t>(words), -1));
  }
  static LatentCacheView view(const Tensor& cache, const Sizes& s, DType dtype) {
    return {cache.view.data, dtype, blocks(s.block_size), s.latent, s.rope, s.block_size};
  }

  /// Of all positions of all rows: what is projected, and the queries that attention sees.
  struct Inputs {
    Twin q_THe, latent_TL, q_THd, angles, norm;
  };
  Inputs inputs(const Sizes& s, int64_t tokens) {
    return {random(DType::f32, {tokens, s.heads, s.plain + s.rope}),
            random(DType::f32, {tokens, s.width()}, 2), random(DType::f32, {tokens, s.heads * s.width()}),
            random(DType::f32, {kPositions, s.rope}, 0.7F), random(DType::f32, {s.latent})};
  }
  static float scale(const Sizes& s) { return 2 / std::sqrt(static_cast<float>(s.width())); }

  /// What attention gives for `parts`; token p of row r has row `apart` r + p of the inputs.
  std::vector<std::byte> attend(const std::vector<RowPart>& parts, const Sizes& s, const Twin& memory,
                                DType cache_dtype, DType out_dtype, const Inputs& in, int64_t apart) {
    const Batch b = batch(parts, s.block_size);
    std::vector<int32_t> which;
    for (const RowPart& part : parts)
      for (int64_t i = 0; i < part.count; ++i)
        which.push_back(static_cast<int32_t>(part.row * apart + part.start + i));
    const Twin rows = of(which);
    const int64_t tokens = b.gpu.tokens;
    const auto gathered = [&](const Twin& all) {
      TensorView from = all.gpu;
      from.shape = {all.gpu.view.dim(0), all.gpu.view.shape.elements() / all.gpu.view.dim(0)};
      Tensor to = gpu_->tensor(DType::f32, {tokens, from.dim(1)});
      ops_->gather_rows(to, from, rows.gpu.view.as<const int32_t>());
      return to;
    };
    const Tensor q_e = gathered(in.q_THe), latent = gathered(in.latent_TL), q = gathered(in.q_THd);
    const auto heads = [&](const Tensor& t) {
      TensorView view = t;
      view.shape = {tokens, s.heads, t.view.shape.elements() / (tokens * s.heads)};
      return view;
    };
    const Tensor plain = gpu_->tensor(out_dtype, {tokens, s.heads, s.plain});
    const Twin out = poisoned(out_dtype, {tokens, s.heads, s.latent});
    const LatentCacheView stored = view(memory.gpu, s, cache_dtype);
    ops_->latent_rope_and_store(heads(q), plain, stored, heads(q_e), latent,
                                {in.angles.gpu, true, in.norm.gpu, 1e-6F}, b.gpu);
    ops_->latent_attention(out.gpu, heads(q), stored, b.gpu, scale(s));
    return bytes_of_rows(out.gpu, 0, tokens);
  }
};

TEST_F(CudaLatent, RotatesStoresAndAttendsLikeTheReference) {
  for (const auto& [out_dtype, cache_dtype, tolerance] : {std::tuple{DType::f32, DType::f32, 1e-5},
                                                          {DType::f32, DType::bf16, 1e-4},
                                                          {DType::f32, DType::e4m3, 2e-3},
                                                          {DType::f32, DType::i8, 5e-4},
                                                          {DType::bf16, DType::bf16, 3e-3},
                                                          {DType::bf16, DType::e4m3, 3e-3},
                                                          {DType::bf16, DType::i8, 3e-3}})
    for (const Sizes& s : {Sizes{4, 10, 20, 6, 7}, Sizes{3, 16, 32, 8}, Sizes{1, 5, 7, 2},
                           Sizes{16, 24, 512, 64}, Sizes{20, 3, 512, 64, 5}}) {
      SCOPED_TRACE(name_of_case(s, out_dtype, cache_dtype));
      const Twin memory = cache(s, cache_dtype), angles = random(DType::f32, {kPositions, s.rope}, 0.7F),
                 norm = random(DType::f32, {s.latent});
      // Of what was stored only the last tokens are asked for, which is what the reference takes long for:
      // rows that decode, chunks within an extent and over its end.
      for (const auto& [stored, asked] :
           {std::pair<std::vector<RowPart>, std::vector<RowPart>>{{{0, 0, 600}, {1, 0, 9}, {3, 0, 70}},
                                                                  {{0, 597, 3}, {1, 0, 9}, {3, 69, 1}}},
            {{{2, 0, 520}, {0, 600, 1}, {1, 9, 1}, {3, 70, 1}},
             {{2, 505, 15}, {0, 600, 1}, {1, 9, 1}, {3, 70, 1}}},
            {{{0, 601, 1}, {2, 520, 1}}, {{0, 601, 1}, {2, 520, 1}}}}) {
        const bool interleave = asked.size() != 3;
        const Batch b = batch(stored, s.block_size);
        const Twin q_e = random(DType::f32, {b.host.tokens, s.heads, s.plain + s.rope}),
                   latent = random(DType::f32, {b.host.tokens, s.width()}, 2);
        const Twin plain = poisoned(out_dtype, {b.host.tokens, s.heads, s.plain}),
                   turned = random(DType::f32, {b.host.tokens, s.heads, s.width()});
        const auto rope = [&](Ops& ops, auto side, const BatchView& batch) {
          const auto at = [&](const Twin& twin) { return (twin.*side).view; };
          ops.latent_rope_and_store(at(turned), at(plain), view(memory.*side, s, cache_dtype), at(q_e),
                                    at(latent), {at(angles), interleave, at(norm), 1e-6F}, batch);
        };
        rope(*ops_, &Twin::gpu, b.gpu);
        rope(*reference_, &Twin::host, b.host);
        expect_close(turned, 1e-6);
        expect_close(plain, 0);

        const Batch last = batch(asked, s.block_size);
        const Twin q = random(DType::f32, {last.host.tokens, s.heads, s.width()});
        const Twin out = poisoned(out_dtype, {last.host.tokens, s.heads, s.latent});
        ops_->latent_attention(out.gpu, q.gpu, view(memory.gpu, s, cache_dtype), last.gpu, scale(s));
        reference_->latent_attention(out.host, q.host, view(memory.host, s, cache_dtype), last.host,
                                     scale(s));
        expect_close(out, tolerance);
      }
    }
}

TEST_F(CudaLatent, PrefillAtOnceInChunksAndTokenByTokenGiveTheSameBits) {
  const Sizes lite{16, 4, 512, 64}, many_heads{128, 2, 512, 64}, few_heads{6, 2, 512, 64, 5},
      tiny{4, 10, 20, 6};
  for (const auto& [s, out_dtype, cache_dtype] : {std::tuple{lite, DType::bf16, DType::bf16},
                                                  {many_heads, DType::bf16, DType::bf16},
                                                  {few_heads, DType::bf16, DType::bf16},
                                                  {lite, DType::bf16, DType::e4m3},
                                                  {few_heads, DType::bf16, DType::e4m3},
                                                  {many_heads, DType::bf16, DType::i8},
                                                  {tiny, DType::bf16, DType::bf16},
                                                  {tiny, DType::bf16, DType::i8},
                                                  {lite, DType::f32, DType::f32}}) {
    SCOPED_TRACE(name_of_case(s, out_dtype, cache_dtype));
    const bool many = s.heads > 16;
    const int64_t positions = many ? 600 : 1100;
    constexpr int64_t kApart = 10;  // rows may share inputs
    const Inputs in = inputs(s, positions);
    const auto run = [&](const std::vector<RowPart>& parts, const Twin& memory) {
      return attend(parts, s, memory, cache_dtype, out_dtype, in, kApart);
    };
    const std::vector<std::byte> at_once = run({{0, 0, positions}}, cache(s, cache_dtype));
    const size_t token = at_once.size() / static_cast<size_t>(positions);
    const auto expect_same = [&](const std::vector<std::byte>& found, int64_t first, int64_t count) {
      const auto begin = at_once.begin() + static_cast<std::ptrdiff_t>(static_cast<size_t>(first) * token);
      EXPECT_TRUE(std::equal(found.begin(),
                             found.begin() + static_cast<std::ptrdiff_t>(static_cast<size_t>(count) * token),
                             begin))
          << "positions from " << first;
    };
    // Token by token around the ends of tiles and extents only: a step each takes its time.
    for (const int64_t chunk : {1, 2, 17, 250}) {
      SCOPED_TRACE("chunks of " + std::to_string(chunk));
      const Twin memory = cache(s, cache_dtype);
      for (int64_t first = 0, step = 0; first < positions; ++step) {
        const int64_t into = first % 512;
        const bool slow = chunk < 10 && into >= 20 && into < 490;
        const int64_t count = std::min(slow ? 490 - into : chunk, positions - first);
        // Beside other rows every other time: that prefill, that decode.
        std::vector<RowPart> parts{{0, first, count}};
        if (step % 2 == 1)
          for (int64_t r = 1; r < kRows; ++r) parts.push_back({r, 0, r % 7 == 0 ? 33 : 1});
        expect_same(run(parts, memory), first, count);
        if (HasFailure()) return;
        first += count;
      }
    }
  }
}

TEST_F(CudaLatent, ManyRowsAndFewRowsGiveTheSameBits) {
  // The same decode among so many that a block walks all extents, and alone, where they are split.
  const Sizes s{16, 1, 512, 64};
  constexpr int64_t kLast = 1100;
  for (const DType cache_dtype : {DType::bf16, DType::e4m3}) {
    const Inputs in = inputs(s, kLast + 1 + kRows);
    const Twin memory = cache(s, cache_dtype);
    const auto run = [&](const std::vector<RowPart>& parts) {
      return attend(parts, s, memory, cache_dtype, DType::bf16, in, 1);
    };
    run({{0, 0, kLast}});
    std::vector<RowPart> crowd{{0, kLast, 1}};
    for (int i = 0; i < 1400; ++i) crowd.push_back({1 + i % (kRows - 1), 0, 1});
    const auto among_many = run(crowd);
    const auto alone = run({crowd[0]});
    EXPECT_TRUE(std::equal(alone.begin(), alone.end(), among_many.begin()));
  }
}

TEST_F(CudaLatent, ARecordedStepGivesTheBitsOfTheStepItself) {
  const Sizes s{16, 4, 512, 64};
  for (const DType cache_dtype : {DType::bf16, DType::i8}) {
    SCOPED_TRACE(name_of(cache_dtype));
    const Twin memory = cache(s, cache_dtype);
    attend({{0, 0, 700}, {1, 0, 40}}, s, memory, cache_dtype, DType::bf16, inputs(s, 740), 700);
    const Inputs in = inputs(s, 3);
    const Batch b = batch({{0, 700, 1}, {1, 40, 1}, {2, 0, 1}}, s.block_size);
    const Twin plain = poisoned(DType::bf16, {3, s.heads, s.plain}),
               out = poisoned(DType::bf16, {3, s.heads, s.latent});
    TensorView q = in.q_THd.gpu;
    q.shape = {3, s.heads, s.width()};
    const auto step = [&] {
      ops_->latent_rope_and_store(q, plain.gpu, view(memory.gpu, s, cache_dtype), in.q_THe.gpu,
                                  in.latent_TL.gpu, {in.angles.gpu, true, in.norm.gpu, 1e-6F}, b.gpu);
      ops_->latent_attention(out.gpu, q, view(memory.gpu, s, cache_dtype), b.gpu, scale(s));
    };
    step();
    const std::vector<std::byte> expected = bytes_of_rows(out.gpu, 0, 3);
    const auto recorded = gpu_->record(step);
    ASSERT_NE(recorded, nullptr);
    gpu_->upload(out.gpu.view.data, out.host.view.data, out.host.view.bytes());
    recorded->replay();
    EXPECT_EQ(bytes_of_rows(out.gpu, 0, 3), expected);
  }
}

}  // namespace
}  // namespace penstock::test
