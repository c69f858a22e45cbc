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

std::string scales_of(const WeightPart& part) {
  return part.name + "_scale_inv";
}

/// The blocks that share a scale, of a part that is kept in FP8.
Fp8Blocks blocks_of(const MatrixSource& from, const WeightPart& part) {
  if (!from.fp8 || from.fp8->columns % kFp8Columns != 0)
    throw UsageError(part.name + " is kept in FP8: expected a quantization_config in config.json whose " +
                     "weight_block_size has a multiple of " + std::to_string(kFp8Columns) +
                     " columns, found " + (from.fp8 ? std::to_string(from.fp8->columns) : "none"));
  return *from.fp8;
}

Shape shape_of_scales(const Fp8Blocks& blocks, const WeightPart& part, int64_t k) {
  return {blocks_over(part.rows, blocks.rows), blocks_over(k, blocks.columns)};
}

bool all_in_fp8(const MatrixSource& from, const std::vector<WeightPart>& parts) {
  return std::all_of(parts.begin(), parts.end(),
                     [&](const WeightPart& part) { return from.source.is_fp8(part.name); });
}

void read_scaled(const MatrixSource& from, const WeightPart& part, int64_t k, const TakeScaledRows& take) {
  const Fp8Blocks blocks = blocks_of(from, part);
  const Shape shape = shape_of_scales(blocks, part, k);
  const int64_t across = shape[1];
  std::vector<float> scales(static_cast<size_t>(shape.elements()));
  from.source.read(scales_of(part), shape, [&](int64_t first, const TensorView& rows) {
    convert(scales.data() + first * across, DType::f32, rows);
  });
  const int64_t wanted = blocks_over(k, kFp8Columns);
  std::vector<float> expanded;
  from.source.read_fp8(part.name, {part.rows, k}, [&](int64_t first, const TensorView& rows) {
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

void read_floats(const MatrixSource& from, const WeightPart& part, int64_t k, const TakeRows& take) {
  std::vector<float> floats;
  const auto give = [&](int64_t first, const TensorView& rows) {
    take(first, {floats.data(), DType::f32, rows.shape});
  };
  if (!from.source.is_fp8(part.name)) {
    from.source.read(part.name, {part.rows, k}, [&](int64_t first, const TensorView& rows) {
      floats.resize(static_cast<size_t>(rows.shape.elements()));
      convert(floats.data(), DType::f32, rows);
      give(first, rows);
    });
    return;
  }
  read_scaled(from, part, k, [&](int64_t first, const TensorView& rows, const TensorView& scales) {
    floats.resize(static_cast<size_t>(rows.shape.elements()));
    for (int64_t i = 0; i < rows.shape.elements(); ++i)
      floats[static_cast<size_t>(i)] = f32_from_e4m3(rows.as<const uint8_t>()[i]) *
                                       scales.as<const float>()[i / k * scales.dim(1) + i % k / kFp8Columns];
    give(first, rows);
  });
}

}  // namespace

void read_floats(const BuildContext& context, const WeightPart& part, int64_t k, const TakeRows& take) {
  read_floats(context.matrices(), part, k, take);
}

std::unique_ptr<Matrix> make_matrix_for(const MatrixSource& from, const std::vector<WeightPart>& parts,
                                        int64_t k) {
  int64_t n = 0;
  for (const WeightPart& part : parts) n += part.rows;
  return all_in_fp8(from, parts) ? from.ops.make_fp8_matrix(n, k, from.dtype)
                                 : from.ops.make_matrix(n, k, from.dtype);
}

std::unique_ptr<Matrix> load_matrix(const MatrixSource& from, const std::vector<WeightPart>& parts,
                                    int64_t k) {
  const bool fp8 = all_in_fp8(from, parts);
  auto matrix = make_matrix_for(from, parts, k);
  int64_t at = 0;
  for (const WeightPart& part : parts) {
    const auto put = [&](int64_t first, const TensorView& rows) {
      from.ops.load_rows(*matrix, at + first, rows);
    };
    if (fp8)
      read_scaled(from, part, k, [&](int64_t first, const TensorView& rows, const TensorView& scales) {
        from.ops.load_fp8_rows(*matrix, at + first, rows, scales);
      });
    else if (from.source.is_fp8(part.name))
      read_floats(from, part, k, put);
    else
      from.source.read(part.name, {part.rows, k}, put);
    at += part.rows;
  }
  return matrix;
}

void check_matrix(const MatrixSource& from, const std::vector<WeightPart>& parts, int64_t k) {
  for (const WeightPart& part : parts) {
    from.source.check(part.name, {part.rows, k});
    if (from.source.is_fp8(part.name))
      from.source.check(scales_of(part), shape_of_scales(blocks_of(from, part), part, k));
  }
}

void announce_matrix(const MatrixSource& from, const std::vector<WeightPart>& parts) {
  for (const WeightPart& part : parts) {
    from.source.announce(scales_of(part));
    from.source.announce(part.name);
  }
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
