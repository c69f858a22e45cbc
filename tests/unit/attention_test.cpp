#include <algorithm>
#include <numeric>

#include "runtime/model/kv_cache.h"
#include "tests/unit/kernel_testing.h"

namespace penstock::testing {
namespace {

struct Heads {
  int64_t heads, kv_heads, dim;
};

/// A few sequences whose q, k and v are fixed in advance, fed to the operations in any cut.
class Sequences {
 public:
  Sequences(Device& device, Values& values, Heads heads, DType dtype, DType cache_dtype, int64_t block_size,
            std::vector<int64_t> lengths)
      : values_(values), heads_(heads), dtype_(dtype), lengths_(std::move(lengths)) {
    for (const int64_t length : lengths_) {
      qkv_.push_back(values.random(DType::f32, {length, width()}, 2));
      out_.push_back(values.poisoned(dtype, {length, heads.heads * heads.dim}));
    }
    const int64_t longest = *std::max_element(lengths_.begin(), lengths_.end());
    stride_ = (longest + block_size - 1) / block_size + 1;
    const int64_t blocks = stride_ * static_cast<int64_t>(lengths_.size()) + 3;
    cache_memory_ = device.tensor(
        DType::i8, {blocks, block_size * kv_position_bytes(heads.kv_heads, heads.dim, cache_dtype)});
    cache_ = {cache_memory_.view.data, cache_dtype, blocks, heads.kv_heads, heads.dim, block_size};
    poison_cache();
    std::vector<int32_t> order(static_cast<size_t>(blocks));
    std::iota(order.begin(), order.end(), 0);
    std::shuffle(order.begin(), order.end(), values.engine());
    tables_.assign(order.begin(), order.begin() + static_cast<std::ptrdiff_t>(stride_ * rows()));
    angles_ = device.tensor(DType::f32, {longest, heads.dim});
    const int64_t half = heads.dim / 2;
    for (int64_t p = 0; p < longest; ++p)
      for (int64_t i = 0; i < half; ++i) {
        const double angle =
            static_cast<double>(p) * std::pow(10000.0, -static_cast<double>(i) / static_cast<double>(half));
        angles_.view.as<float>()[p * heads.dim + i] = static_cast<float>(std::cos(angle));
        angles_.view.as<float>()[p * heads.dim + half + i] = static_cast<float>(std::sin(angle));
      }
  }

  int64_t rows() const { return static_cast<int64_t>(lengths_.size()); }
  const TensorView& out(int64_t row) const { return out_[static_cast<size_t>(row)].view; }

  /// One micro-batch: of each named row, the next `count` positions.
  struct Part {
    int64_t row, start, count;
  };
  void run(Ops& ops, const std::vector<Part>& parts) {
    std::vector<int32_t> positions, row_of, starts{0}, context, table;
    for (size_t r = 0; r < parts.size(); ++r) {
      for (int64_t i = 0; i < parts[r].count; ++i) {
        positions.push_back(static_cast<int32_t>(parts[r].start + i));
        row_of.push_back(static_cast<int32_t>(r));
      }
      starts.push_back(static_cast<int32_t>(positions.size()));
      context.push_back(static_cast<int32_t>(parts[r].start + parts[r].count));
      const auto first = tables_.begin() + static_cast<std::ptrdiff_t>(parts[r].row * stride_);
      table.insert(table.end(), first, first + static_cast<std::ptrdiff_t>(stride_));
    }
    const auto tokens = static_cast<int64_t>(positions.size());
    const BatchView batch{tokens,
                          static_cast<int64_t>(parts.size()),
                          positions.data(),
                          row_of.data(),
                          starts.data(),
                          context.data(),
                          table.data(),
                          stride_,
                          *std::max_element(context.begin(), context.end())};
    const Tensor qkv = values_.poisoned(DType::f32, {tokens, width()});
    int64_t token = 0;
    for (const Part& p : parts) {
      std::memcpy(qkv.view.as<float>() + token * width(),
                  qkv_[static_cast<size_t>(p.row)].view.as<float>() + p.start * width(),
                  static_cast<size_t>(p.count * width()) * sizeof(float));
      token += p.count;
    }
    const int64_t n = heads_.heads * heads_.dim;
    const Tensor q = values_.poisoned(dtype_, {tokens, heads_.heads, heads_.dim});
    const Tensor out = values_.poisoned(dtype_, {tokens, heads_.heads, heads_.dim});
    ops.rope_and_store(q, cache_, qkv, {angles_, heads_.dim, {}, {}, 0}, batch);
    ops.attention(out, q, cache_, batch, 1 / std::sqrt(static_cast<float>(heads_.dim)));
    token = 0;
    for (const Part& p : parts) {
      const size_t row = static_cast<size_t>(n) * bytes_of(dtype_);
      std::memcpy(out_[static_cast<size_t>(p.row)].view.as<char>() + static_cast<size_t>(p.start) * row,
                  out.view.as<char>() + static_cast<size_t>(token) * row, static_cast<size_t>(p.count) * row);
      token += p.count;
    }
  }

  /// Every row in chunks of `chunk`, all rows in one micro-batch.
  void run_in_chunks(Ops& ops, int64_t chunk) {
    for (int64_t start = 0;; start += chunk) {
      std::vector<Part> parts;
      for (int64_t row = 0; row < rows(); ++row) {
        const int64_t left = lengths_[static_cast<size_t>(row)] - start;
        if (left > 0) parts.push_back({row, start, std::min(left, chunk)});
      }
      if (parts.empty()) return;
      run(ops, parts);
    }
  }

  /// A prefill of all but the last positions, each row by itself, then single steps.
  void run_alone_then_decode(Ops& ops) {
    for (int64_t row = rows() - 1; row >= 0; --row) {
      const int64_t length = lengths_[static_cast<size_t>(row)];
      const int64_t prompt = std::max<int64_t>(1, length - 5);
      run(ops, {{row, 0, prompt}});
      for (int64_t p = prompt; p < length; ++p) run(ops, {{row, p, 1}});
    }
  }

  void do_not_rotate() {
    const int64_t half = heads_.dim / 2;
    for (int64_t i = 0; i < angles_.view.shape.elements(); ++i)
      angles_.view.as<float>()[i] = i % heads_.dim < half ? 1 : 0;
  }

  /// Outputs and cache back to NaN.
  void forget() {
    for (size_t r = 0; r < out_.size(); ++r) out_[r] = values_.poisoned(dtype_, out_[r].view.shape);
    poison_cache();
  }

  std::vector<Tensor> outputs() const { return out_; }

 private:
  /// Every scale and every element that can be one is NaN: in all formats that is all ones.
  void poison_cache() { std::memset(cache_.data, 0xFF, cache_memory_.view.bytes()); }
  int64_t width() const { return (heads_.heads + 2 * heads_.kv_heads) * heads_.dim; }

  Values& values_;
  Heads heads_;
  DType dtype_;
  std::vector<int64_t> lengths_;
  std::vector<Tensor> qkv_, out_;
  Tensor cache_memory_;
  KvCacheView cache_;
  std::vector<int32_t> tables_;
  int64_t stride_ = 0;
  Tensor angles_;
};

class AttentionTest : public OnEveryKernelTable {};

TEST_P(AttentionTest, GivesTheSameBitsForPrefillChunksAndDecode) {
  const struct {
    Heads heads;
    DType dtype;
    DType cache_dtype;
    int64_t block_size;
  } cases[] = {
      {{4, 2, 128}, DType::bf16, DType::bf16, 16}, {{4, 2, 128}, DType::f32, DType::f32, 16},
      {{7, 1, 64}, DType::bf16, DType::bf16, 32},  {{3, 3, 20}, DType::bf16, DType::bf16, 16},
      {{3, 3, 20}, DType::f32, DType::f32, 16},    {{4, 4, 80}, DType::bf16, DType::bf16, 64},
      {{2, 1, 16}, DType::bf16, DType::bf16, 1},   {{2, 1, 96}, DType::f32, DType::f32, 7},
      {{2, 2, 256}, DType::bf16, DType::bf16, 8},  {{4, 2, 128}, DType::bf16, DType::e4m3, 16},
      {{4, 2, 128}, DType::f32, DType::i8, 16},    {{7, 1, 64}, DType::bf16, DType::i8, 32},
      {{3, 3, 22}, DType::f32, DType::e4m3, 16},   {{2, 1, 22}, DType::bf16, DType::i8, 7},
      {{2, 2, 96}, DType::bf16, DType::e4m3, 1},
  };
  const auto fast = ops(2);
  const auto one_thread = ops(1);
  for (const auto& c : cases) {
    const Shape shape{c.heads.heads, c.heads.kv_heads, c.heads.dim, c.block_size};
    SCOPED_TRACE(shape.text() + name_of(c.dtype) + name_of(c.cache_dtype));
    Sequences sequences(*device_, values_, c.heads, c.dtype, c.cache_dtype, c.block_size, {150, 1, 66, 97});
    sequences.run_in_chunks(*fast, 1000);
    const std::vector<Tensor> at_once = sequences.outputs();
    const auto expect_same = [&](const std::string& cut) {
      for (int64_t row = 0; row < sequences.rows(); ++row)
        ASSERT_TRUE(same_bits(sequences.out(row), at_once[static_cast<size_t>(row)]))
            << cut << ", row " << row;
    };
    for (const int64_t chunk : {1, 7, 16, 33}) {
      sequences.forget();
      sequences.run_in_chunks(*fast, chunk);
      expect_same("chunks of " + std::to_string(chunk));
    }
    sequences.forget();
    sequences.run_alone_then_decode(*one_thread);
    expect_same("alone, then decoded");
  }
}

TEST_P(AttentionTest, MatchesTheReference) {
  const auto reference = make_reference_ops(*device_);
  const auto fast = ops(2);
  for (const int64_t dim : {16, 20, 32, 64, 80, 96, 128, 256})
    for (const auto& [dtype, cache_dtype] : {std::pair(DType::f32, DType::f32),
                                             {DType::bf16, DType::bf16},
                                             {DType::f32, DType::bf16},
                                             {DType::bf16, DType::f32}}) {
      SCOPED_TRACE(std::to_string(dim) + name_of(dtype) + name_of(cache_dtype));
      Sequences sequences(*device_, values_, {6, 2, dim}, dtype, cache_dtype, 16, {70, 33});
      sequences.run_in_chunks(*reference, 1000);
      const std::vector<Tensor> expected = sequences.outputs();
      sequences.forget();
      sequences.run_in_chunks(*fast, 1000);
      const bool rounds = dtype == DType::bf16 || cache_dtype == DType::bf16;
      for (int64_t row = 0; row < sequences.rows(); ++row)
        expect_close(sequences.out(row), expected[static_cast<size_t>(row)], rounds ? 0.03 : 1e-5,
                     rounding(dtype));
    }
}

/// Without rotation both back ends store the very same codes, so what is left is the order of sums.
TEST_P(AttentionTest, MatchesTheReferenceWhereTheCacheHasScales) {
  const auto reference = make_reference_ops(*device_);
  const auto fast = ops(2);
  for (const DType cache_dtype : {DType::e4m3, DType::i8})
    for (const int64_t block_size : {16, 7})
      for (const int64_t dim : {16, 22, 64, 80, 128, 256}) {
        SCOPED_TRACE(std::to_string(dim) + name_of(cache_dtype));
        Sequences sequences(*device_, values_, {6, 2, dim}, DType::f32, cache_dtype, block_size, {70, 33});
        sequences.do_not_rotate();
        sequences.run_in_chunks(*reference, 1000);
        const std::vector<Tensor> expected = sequences.outputs();
        sequences.forget();
        sequences.run_in_chunks(*fast, 1000);
        for (int64_t row = 0; row < sequences.rows(); ++row)
          expect_close(sequences.out(row), expected[static_cast<size_t>(row)], 1e-5, rounding(DType::f32));
      }
}

/// What a format costs: attention over it is near attention over float32, int8 nearer than FP8.
TEST_P(AttentionTest, LosesLittleWhereTheCacheHasScales) {
  const auto fast = ops(2);
  Values again(*device_, 7);
  Sequences exact(*device_, again, {6, 2, 64}, DType::f32, DType::f32, 16, {70});
  exact.run_in_chunks(*fast, 1000);
  const auto error_in = [&](DType cache_dtype) {
    Values same(*device_, 7);
    Sequences sequences(*device_, same, {6, 2, 64}, DType::f32, cache_dtype, 16, {70});
    sequences.run_in_chunks(*fast, 1000);
    double sum = 0;
    const int64_t elements = exact.out(0).shape.elements();
    for (int64_t i = 0; i < elements; ++i) {
      const double error =
          static_cast<double>(at(sequences.out(0), i)) - static_cast<double>(at(exact.out(0), i));
      sum += error * error;
    }
    return std::sqrt(sum / static_cast<double>(elements));
  };
  const double fp8 = error_in(DType::e4m3);
  const double int8 = error_in(DType::i8);
  EXPECT_LT(fp8, 0.05);
  EXPECT_LT(int8, 0.015);
  EXPECT_GT(int8, 0);
  EXPECT_LT(int8, fp8);
}

TEST_P(AttentionTest, SurvivesScoresFarApart) {
  const auto fast = ops(1);
  Sequences sequences(*device_, values_, {1, 1, 16}, DType::f32, DType::f32, 16, {200});
  sequences.run_in_chunks(*fast, 1000);
  for (int64_t i = 0; i < sequences.out(0).shape.elements(); ++i)
    ASSERT_TRUE(std::isfinite(at(sequences.out(0), i)));
}

INSTANTIATE_TEST_SUITE_P(Kernels, AttentionTest, ::testing::ValuesIn(cpu::available_kernels()), kernel_name);

}  // namespace
}  // namespace penstock::testing
