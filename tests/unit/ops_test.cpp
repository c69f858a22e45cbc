#include "tests/unit/kernel_testing.h"

namespace penstock::testing {
namespace {

class RowOps : public OnEveryKernelTable {
 protected:
  std::unique_ptr<Ops> fast_ = ops(2);
  std::unique_ptr<Ops> reference_ = make_reference_ops(*device_);
};

TEST_P(RowOps, RmsNormMatchesTheReference) {
  for (const DType out : {DType::f32, DType::bf16})
    for (const int64_t d : {1, 20, 64, 333, 2048}) {
      const Tensor x = values_.random(DType::f32, {5, d}, 3);
      const Tensor weight = values_.random(DType::f32, {d});
      const Tensor found = values_.poisoned(out, {5, d});
      const Tensor expected = values_.poisoned(DType::f32, {5, d});
      fast_->rms_norm(found, x, weight, 1e-5F);
      reference_->rms_norm(expected, x, weight, 1e-5F);
      expect_close(found, expected, 1e-6, rounding(out));
    }
}

TEST_P(RowOps, SwigluMatchesTheReferenceAtBothEndsOfExp) {
  for (const DType in : {DType::f32, DType::bf16})
    for (const DType out : {DType::f32, DType::bf16})
      for (const int64_t f : {1, 24, 100}) {
        const Tensor gate_up = values_.random(in, {3, 2 * f}, 120);
        const Tensor found = values_.poisoned(out, {3, f});
        const Tensor expected = values_.poisoned(DType::f32, {3, f});
        fast_->swiglu(found, gate_up);
        reference_->swiglu(expected, gate_up);
        expect_close(found, expected, 1e-6, 2 * rounding(out));
      }
}

TEST_P(RowOps, EmbedWidensEveryTableDtype) {
  const std::vector<int32_t> ids{4, 0, 9, 9, 1};
  for (const DType dtype : {DType::f32, DType::bf16}) {
    const Tensor table = values_.random(dtype, {10, 37});
    const Tensor x = values_.poisoned(DType::f32, {5, 37});
    fast_->embed(x, ids.data(), table);
    for (int64_t t = 0; t < 5; ++t)
      for (int64_t i = 0; i < 37; ++i)
        ASSERT_EQ(at(x, t * 37 + i), at(table, ids[static_cast<size_t>(t)] * 37 + i));
  }
  const std::vector<uint16_t> halves{0x3C00, 0xC000, 0x0001, 0x7BFF};  // 1, -2, 2^-24, 65504
  const Tensor table = device_->tensor(DType::f16, {1, 4});
  std::memcpy(table.view.data, halves.data(), 8);
  const Tensor x = values_.poisoned(DType::f32, {1, 4});
  const int32_t id = 0;
  fast_->embed(x, &id, table);
  EXPECT_EQ(at(x, 0), 1.0F);
  EXPECT_EQ(at(x, 1), -2.0F);
  EXPECT_EQ(at(x, 2), 0x1p-24F);
  EXPECT_EQ(at(x, 3), 65504.0F);
}

TEST_P(RowOps, GatherCopiesTheNamedRows) {
  const std::vector<int32_t> rows{6, 2, 2};
  const Tensor x = values_.random(DType::bf16, {7, 33});
  const Tensor y = values_.poisoned(DType::bf16, {3, 33});
  fast_->gather_rows(y, x, rows.data());
  for (int64_t r = 0; r < 3; ++r)
    for (int64_t i = 0; i < 33; ++i)
      ASSERT_EQ(at(y, r * 33 + i), at(x, rows[static_cast<size_t>(r)] * 33 + i));
}

TEST_P(RowOps, RopeNormalisesAndRotatesLikeTheReference) {
  const int64_t h = 4;
  const int64_t g = 2;
  const int64_t tokens = 3;
  const std::vector<int32_t> positions{0, 1, 2}, row_of{0, 0, 0}, starts{0, 3}, context{3}, table{1};
  const BatchView batch{
      tokens, 1, positions.data(), row_of.data(), starts.data(), context.data(), table.data(), 1, 3};
  for (const DType dtype : {DType::f32, DType::bf16})
    for (const auto& [d, rotary_dim] : {std::pair<int64_t, int64_t>(20, 20), {64, 32}, {128, 128}, {128, 0}})
      for (const bool norms : {false, true}) {
        SCOPED_TRACE(Shape({d, rotary_dim}).text() + name_of(dtype));
        const Tensor qkv = values_.random(dtype, {tokens, (h + 2 * g) * d});
        const Tensor angles = values_.random(DType::f32, {tokens, rotary_dim});
        const Tensor norm = values_.random(DType::f32, {d});
        const TensorView weight = norms ? norm.view : TensorView{};
        const RotaryView rotary{angles, rotary_dim, weight, weight, 1e-6F};
        const auto run = [&, d = d](Ops& ops) {
          const Tensor cache = values_.poisoned(dtype, {2, 2 * g * d * 16});
          const Tensor q = values_.poisoned(dtype, {tokens, h, d});
          const Tensor out = values_.poisoned(DType::f32, {tokens, h, d});
          const KvCacheView view{cache.view.data, dtype, 2, g, d, 16};
          ops.rope_and_store(q, view, qkv, rotary, batch);
          ops.attention(out, q, view, batch, 0.3F);  // what was stored shows in what attention reads
          return std::pair(q, out);
        };
        const auto [found_q, found_out] = run(*fast_);
        const auto [expected_q, expected_out] = run(*reference_);
        expect_close(found_q, expected_q, 2e-6, 2 * rounding(dtype));
        expect_close(found_out, expected_out, dtype == DType::bf16 ? 0.02 : 1e-5, 0);
      }
}

TEST_P(RowOps, NothingHappensForNoTokens) {
  const Tensor x = values_.poisoned(DType::f32, {0, 64});
  const Tensor weight = values_.random(DType::f32, {64});
  const auto matrix = fast_->make_matrix(8, 64, DType::f32);
  fast_->load_rows(*matrix, 0, values_.random(DType::f32, {8, 64}));
  fast_->rms_norm(x, x, weight, 1e-5F);
  fast_->matmul(values_.poisoned(DType::f32, {0, 8}), x, *matrix, {}, Into::overwrite);
  EXPECT_TRUE(fast_->sample(values_.poisoned(DType::f32, {0, 8}), {}).empty());
}

INSTANTIATE_TEST_SUITE_P(Kernels, RowOps, ::testing::ValuesIn(cpu::available_kernels()), kernel_name);

TEST(CpuOps, NamesTheKernelsThatDecideBits) {
  const auto device = make_cpu_device();
  std::string before;
  for (const auto* table : cpu::available_kernels()) {
    const std::string name = cpu::make_ops(*device, 1, *table)->numerics();
    EXPECT_NE(name.find(table->name), std::string::npos);
    EXPECT_NE(name, before);
    before = name;
  }
  EXPECT_EQ(make_cpu_ops(*device, 2)->numerics(), make_cpu_ops(*device, 1)->numerics());
}

}  // namespace
}  // namespace penstock::testing
