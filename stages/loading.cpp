#include "stages/loading.h"

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

}  // namespace

std::unique_ptr<Matrix> load_matrix(const BuildContext& context, const std::vector<WeightPart>& parts,
                                    int64_t k) {
  int64_t n = 0;
  for (const WeightPart& part : parts) n += part.rows;
  auto matrix = context.ops.make_matrix(n, k, context.spec.dtype);
  int64_t at = 0;
  for (const WeightPart& part : parts) {
    context.source.read(part.name, {part.rows, k}, [&](int64_t first, const TensorView& rows) {
      context.ops.load_rows(*matrix, at + first, rows);
    });
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
