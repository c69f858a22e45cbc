#include "runtime/model/safetensors.h"

#include <cmath>
#include <numeric>

#include "runtime/model/convert.h"
#include "runtime/model/weight_source.h"
#include "tests/unit/model_fixtures.h"

namespace penstock {
namespace {

using test::raw;
using test::RawTensor;
using test::safetensors_bytes;
using test::TempDir;
using test::usage_error;

std::vector<float> iota(size_t n) {
  std::vector<float> v(n);
  std::iota(v.begin(), v.end(), 0.0F);
  return v;
}

std::vector<float> read_all(WeightSource& source, const std::string& name, const Shape& shape) {
  std::vector<float> all(static_cast<size_t>(shape.elements()));
  const int64_t row = shape.rank() == 2 ? shape[1] : 1;
  int64_t next = 0;
  source.read(name, shape, [&](int64_t first, const TensorView& rows) {
    EXPECT_EQ(first, next) << "rows come in order";
    next = first + rows.dim(0);
    convert(all.data() + first * row, DType::f32, rows);
  });
  EXPECT_EQ(next, shape[0]);
  return all;
}

std::string open_error(const std::string& file_bytes) {
  const TempDir dir;
  dir.write("model.safetensors", file_bytes);
  return usage_error([&] { open_checkpoint(dir.path()); });
}

const RawTensor kSmall{"model.norm.weight", "F32", {2, 3}, raw(iota(6))};

TEST(Checkpoint, ReadsTensorsOfOneFileAndCountsTheirBytes) {
  const TempDir dir;
  const std::vector<uint16_t> halves{0x3C00, 0xC000, 0x0001, 0x7BFF};  // 1, -2, the smallest subnormal, 65504
  const std::vector<uint16_t> brains{0x3F80, 0xC040};                  // 1, -3
  dir.write("model.safetensors",
            safetensors_bytes({kSmall, {"h", "F16", {4}, raw(halves)}, {"b", "BF16", {1, 2}, raw(brains)}}));
  const auto source = open_checkpoint(dir.path());
  EXPECT_EQ(source->bytes_read(), 0);
  EXPECT_EQ(read_all(*source, "model.norm.weight", {2, 3}), iota(6));
  EXPECT_EQ(read_all(*source, "h", {4}), (std::vector<float>{1, -2, 0x1p-24F, 65504}));
  EXPECT_EQ(read_all(*source, "b", {1, 2}), (std::vector<float>{1, -3}));
  EXPECT_EQ(source->bytes_read(), 24 + 8 + 4);
}

TEST(Checkpoint, StreamsALargeTensorInSeveralChunks) {
  const TempDir dir;
  const std::vector<float> values = iota(7'000'000);  // 28 MB; every value is exact in float32
  dir.write("model.safetensors", safetensors_bytes({{"t", "F32", {7000, 1000}, raw(values)}}));
  const auto source = open_checkpoint(dir.path());
  int chunks = 0;
  source->read("t", {7000, 1000}, [&](int64_t, const TensorView& rows) {
    ++chunks;
    EXPECT_LE(rows.bytes(), size_t{4} << 20);
  });
  EXPECT_GE(chunks, 7) << "more than are read ahead at once";
  EXPECT_EQ(read_all(*source, "t", {7000, 1000}), values);
}

TEST(Checkpoint, FollowsTheIndexOfAShardedModel) {
  const TempDir dir;
  dir.write("a.safetensors", safetensors_bytes({kSmall}));
  dir.write("b.safetensors", safetensors_bytes({{"x", "F32", {2}, raw(iota(2))}}));
  const auto index = [&](const nlohmann::json& map) {
    dir.write("model.safetensors.index.json", nlohmann::json{{"weight_map", map}}.dump());
  };
  index({{"model.norm.weight", "a.safetensors"}, {"x", "b.safetensors"}});
  const auto source = open_checkpoint(dir.path());
  EXPECT_EQ(read_all(*source, "x", {2}), iota(2));
  EXPECT_EQ(read_all(*source, "model.norm.weight", {2, 3}), iota(6));

  const auto error = [&] { return usage_error([&] { open_checkpoint(dir.path()); }); };
  index({{"x", "b.safetensors"}, {"y", "c.safetensors"}, {"z", "d.safetensors"}});
  EXPECT_CONTAINS(error(), "missing: c.safetensors, d.safetensors");
  index({{"y", "b.safetensors"}});
  EXPECT_CONTAINS(error(), "b.safetensors: expected tensor y");
  index({{"x", "../b.safetensors"}});
  EXPECT_CONTAINS(error(), "the name of a file beside the index");
}

TEST(Checkpoint, TheDecoderMayStandWithoutItsPrefix) {
  const TempDir dir;
  dir.write("model.safetensors", safetensors_bytes({{"norm.weight", "F32", {6}, raw(iota(6))}}));
  const auto source = open_checkpoint(dir.path());
  EXPECT_EQ(read_all(*source, "model.norm.weight", {6}), iota(6));
}

TEST(Checkpoint, AWrongTensorIsNamedWithBothShapes) {
  const TempDir dir;
  dir.write("model.safetensors",
            safetensors_bytes({kSmall, {"i", "I64", {1}, raw(std::vector<int64_t>{1})}}));
  const auto source = open_checkpoint(dir.path());
  const auto error = [&](const std::string& name, const Shape& shape) {
    return usage_error([&] { source->read(name, shape, [](int64_t, const TensorView&) {}); });
  };
  EXPECT_CONTAINS(error("model.norm.weight", {3, 2}), "model.norm.weight: expected [3, 2], found [2, 3]");
  EXPECT_CONTAINS(error("model.norm.weight", {6}), "expected [6], found [2, 3]");
  EXPECT_CONTAINS(error("lm_head.weight", {6}), "tensor lm_head.weight is missing");
  EXPECT_CONTAINS(error("i", {1}), "expected F32, BF16 or F16, found I64");
}

TEST(Checkpoint, ATruncatedFileIsNamedWithExpectedAndFoundBytes) {
  const std::string whole = safetensors_bytes({kSmall});
  const std::string message = open_error(whole.substr(0, whole.size() - 5));
  EXPECT_CONTAINS(message, "model.norm.weight: truncated file: expected 24 bytes of data, found 19");
  EXPECT_CONTAINS(open_error(whole.substr(0, 20)), "truncated: expected a header of");
  EXPECT_CONTAINS(open_error(whole.substr(0, 3)), "found a file of 3");
}

TEST(Checkpoint, AHeaderIsNotBelieved) {
  const auto entry = [](const std::string& fields) {
    return safetensors_bytes("{\"t\":{" + fields + "}}", "12345678");
  };
  EXPECT_CONTAINS(open_error(entry(R"("dtype":"F32","shape":[3],"data_offsets":[0,8])")),
                  "expected 12 bytes");
  EXPECT_CONTAINS(open_error(entry(R"("dtype":"F32","shape":[2],"data_offsets":[8,0])")), "in order");
  EXPECT_CONTAINS(open_error(entry(R"("dtype":"F32","shape":[-2],"data_offsets":[0,8])")), "whole numbers");
  EXPECT_CONTAINS(
      open_error(entry(R"("dtype":"F32","shape":[4294967296,4294967296,4294967297],"data_offsets":[0,8])")),
      "2^64 or more");
  EXPECT_CONTAINS(open_error(entry(R"("dtype":"F32","shape":[2],"data_offsets":[0,8,9])")),
                  "two data_offsets");
  EXPECT_CONTAINS(open_error(entry(R"("dtype":"F32","data_offsets":[0,8])")), "shape");
  EXPECT_CONTAINS(
      open_error(
          entry(R"("dtype":"F32","shape":[2],"data_offsets":[18446744073709551608,18446744073709551615])")),
      "truncated");
  EXPECT_CONTAINS(open_error(safetensors_bytes("[1,2]", "")), "a JSON object");
  EXPECT_CONTAINS(open_error(safetensors_bytes("{\"t\":", "")), "expected JSON");
  EXPECT_CONTAINS(open_error(raw(std::vector<uint64_t>{~0ULL, 0})), "is this a safetensors file?");
}

TEST(Checkpoint, AFolderWithoutWeightsIsTold) {
  const TempDir dir;
  EXPECT_CONTAINS(usage_error([&] { open_checkpoint(dir.path()); }), "expected model.safetensors");
}

TEST(Convert, RoundsToTheNearestBfloat16AndTiesToEven) {
  EXPECT_EQ(bf16_from_f32(1.0F), 0x3F80);
  EXPECT_EQ(bf16_from_f32(1.00390625F), 0x3F80) << "half way between 1 and the next: even";
  EXPECT_EQ(bf16_from_f32(1.01171875F), 0x3F82) << "half way again: even is above";
  EXPECT_EQ(bf16_from_f32(1.004F), 0x3F81);
  EXPECT_EQ(bf16_from_f32(3.4e38F), 0x7F80) << "beyond the largest: infinity";
  EXPECT_TRUE(std::isnan(f32_from_bf16(bf16_from_f32(std::nanf("")))));
  EXPECT_TRUE(std::isinf(f32_from_f16(0xFC00)));
  EXPECT_TRUE(std::isnan(f32_from_f16(0x7E00)));
}

TEST(DummyWeights, AValueDependsOnSeedNameAndElementOnly) {
  const std::string name = "model.layers.0.mlp.up_proj.weight";
  const auto a = read_all(*make_dummy_weights(1), name, {3001, 1000});
  const auto again = make_dummy_weights(1);
  EXPECT_NE(read_all(*again, "model.layers.1.mlp.up_proj.weight", {3001, 1000}), a);
  EXPECT_EQ(read_all(*again, name, {3001, 1000}), a) << "whatever was read before";
  EXPECT_EQ(read_all(*again, name, {3001 * 1000 / 8, 8}), a) << "whatever the chunks are";
  EXPECT_NE(read_all(*make_dummy_weights(2), name, {3001, 1000}), a);
}

TEST(DummyWeights, LookLikeAFreshlyInitialisedModel) {
  const auto source = make_dummy_weights(1);
  const auto w = read_all(*source, "lm_head.weight", {1000, 1000});
  double sum = 0;
  double squares = 0;
  for (const float x : w) {
    sum += static_cast<double>(x);
    squares += static_cast<double>(x) * static_cast<double>(x);
  }
  EXPECT_NEAR(sum / 1e6, 0, 1e-4);
  EXPECT_NEAR(std::sqrt(squares / 1e6), 0.018, 1e-3);
  for (const float x : read_all(*source, "model.layers.3.input_layernorm.weight", {64})) EXPECT_EQ(x, 1.0F);
  for (const float x : read_all(*source, "model.layers.3.self_attn.q_norm.weight", {64})) EXPECT_EQ(x, 1.0F);
}

}  // namespace
}  // namespace penstock
