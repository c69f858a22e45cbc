#include "stages/loading.h"

#include <algorithm>
#include <cstddef>

#include "runtime/model/convert.h"

namespace penstock {
namespace {

/// Converts on the host, chunk by chunk, and uploads to consecutive memory from `element` on.
void load_into(const BuildContext& context, const std::string& name, const Shape& shape, const Tensor& to,
               int64_t element) {
  const int64_t row = shape.rank() == 2 ? shape[1] : 1;
  const size_t size = bytes_of(to.view.dtype);
  std::vector<std::byte> converted;
  context.source.read(name, shape, [&](int64_t first, const TensorView& rows) {
    converted.resize(static_cast<size_t>(rows.shape.elements()) * size);
    convert(converted.data(), to.view.dtype, rows);
    context.device.upload(to.view.as<std::byte>() + static_cast<size_t>(element + first * row) * size,
                          converted.data(), converted.size());
  });
}

/// Rows of an FP8 tensor with the scales of each: [rows, blocks of kFp8Columns].
using TakeScaledRows =
    std::function<void(int64_t first_row, const TensorView& rows_rK, const TensorView& scales_rB)>;

void read_scaled(const BuildContext& context, const WeightPart& part, int64_t k, const TakeScaledRows& take) {
  const Fp8Blocks blocks = context.config.fp8.value_or(Fp8Blocks{});
  if (!context.config.fp8 || blocks.columns % kFp8Columns != 0)
    throw UsageError(part.name + " is kept in FP8: expected a quantization_config in config.json whose " +
                     "weight_block_size has a multiple of " + std::to_string(kFp8Columns) +
                     " columns, found " +
                     (context.config.fp8 ? std::to_string(blocks.columns) : std::string("none")));
  const int64_t down = blocks_over(part.rows, blocks.rows);
  const int64_t across = blocks_over(k, blocks.columns);
  std::vector<float> scales(static_cast<size_t>(down * across));
  context.source.read(part.name + "_scale_inv", {down, across}, [&](int64_t first, const TensorView& rows) {
    convert(scales.data() + first * across, DType::f32, rows);
  });
  const int64_t wanted = blocks_over(k, kFp8Columns);
  std::vector<float> expanded;
  context.source.read_fp8(part.name, {part.rows, k}, [&](int64_t first, const TensorView& rows) {
    const auto* bytes = rows.as<const uint8_t>();
    if (std::any_of(bytes, bytes + rows.bytes(), [](uint8_t b) { return (b & 0x7F) == 0x7F; }))
      throw UsageError(part.name + ": expected numbers, found NaN in FP8 rows from " + std::to_string(first));
    expanded.resize(static_cast<size_t>(rows.dim(0) * wanted));
    for (int64_t r = 0; r < rows.dim(0); ++r)
      for (int64_t b = 0; b < wanted; ++b)
        expanded[static_cast<size_t>(r * wanted + b)] = scales[static_cast<size_t>(
            (first + r) / blocks.rows * across + b * kFp8Columns / blocks.columns)];
    take(first, rows, {expanded.data(), DType::f32, {rows.dim(0), wanted}});
  });
}

}  // namespace

void read_floats(const BuildContext& context, const WeightPart& part, int64_t k, const TakeRows& take) {
  std::vector<float> floats;
  const auto give = [&](int64_t first, const TensorView& rows) {
    take(first, {floats.data(), DType::f32, rows.shape});
  };
  if (!context.source.is_fp8(part.name)) {
    context.source.read(part.name, {part.rows, k}, [&](int64_t first, const TensorView& rows) {
      floats.resize(static_cast<size_t>(rows.shape.elements()));
      convert(floats.data(), DType::f32, rows);
      give(first, rows);
    });
    return;
  }
  read_scaled(context, part, k, [&](int64_t first, const TensorView& rows, const TensorView& scales) {
    floats.resize(static_cast<size_t>(rows.shape.elements()));
    for (int64_t i = 0; i < rows.shape.elements(); ++i)
      floats[static_cast<size_t>(i)] = f32_from_e4m3(rows.as<const uint8_t>()[i]) *
                                       scales.as<const float>()[i / k * scales.dim(1) + i % k / kFp8Columns];
    give(first, rows);
  });
}

std::unique_ptr<Matrix> load_matrix(const BuildContext& context, const std::vector<WeightPart>& parts,
                                    int64_t k) {
  int64_t n = 0;
  for (const WeightPart& part : parts) n += part.rows;
  const bool fp8 = std::all_of(parts.begin(), parts.end(),
                               [&](const WeightPart& part) { return context.source.is_fp8(part.name); });
  auto matrix = fp8 ? context.ops.make_fp8_matrix(n, k, context.spec.dtype)
                    : context.ops.make_matrix(n, k, context.spec.dtype);
  int64_t at = 0;
  for (const WeightPart& part : parts) {
    const auto put = [&](int64_t first, const TensorView& rows) {
      context.ops.load_rows(*matrix, at + first, rows);
    };
    if (fp8)
      read_scaled(context, part, k, [&](int64_t first, const TensorView& rows, const TensorView& scales) {
        context.ops.load_fp8_rows(*matrix, at + first, rows, scales);
      });
    else if (context.source.is_fp8(part.name))
      read_floats(context, part, k, put);
    else
      context.source.read(part.name, {part.rows, k}, put);
    at += part.rows;
  }
  return matrix;
}

Tensor load_vector(const BuildContext& context, const std::vector<WeightPart>& parts) {
  int64_t n = 0;
  for (const WeightPart& part : parts) n += part.rows;
  Tensor vector = context.device.tensor(DType::f32, {n});
  int64_t at = 0;
  for (const WeightPart& part : parts) {
    load_into(context, part.name, {part.rows}, vector, at);
    at += part.rows;
  }
  return vector;
}

Tensor load_table(const BuildContext& context, const WeightPart& part, int64_t k) {
  Tensor table = context.device.tensor(context.spec.dtype, {part.rows, k});
  load_into(context, part.name, {part.rows, k}, table, 0);
  return table;
}

}  // namespace penstock
