// From a weight source into the layouts that ops want. Used while a stage is being built.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "stages/build_stage.h"

namespace penstock {

/// What it takes to make matrices: a part of BuildContext that outlives the build where experts come lazily.
struct MatrixSource {
  WeightSource& source;
  Ops& ops;
  DType dtype;
  std::optional<Fp8Blocks> fp8;
};

/// All that the parts of a stage are built from.
struct BuildContext {
  const ModelConfig& config;
  WeightSource& source;
  const StageSpec& spec;
  Device& device;
  Ops& ops;

  MatrixSource matrices() const { return {source, ops, spec.dtype, config.fp8}; }
};

/// A named tensor and how many rows (or elements) it has.
struct WeightPart {
  std::string name;
  int64_t rows = 0;
};

/// One matrix of all the parts' rows, one below the other, each part [rows, k]. Kept in FP8 if all parts are.
std::unique_ptr<Matrix> load_matrix(const MatrixSource& from, const std::vector<WeightPart>& parts,
                                    int64_t k);
inline std::unique_ptr<Matrix> load_matrix(const BuildContext& context, const std::vector<WeightPart>& parts,
                                           int64_t k) {
  return load_matrix(context.matrices(), parts, k);
}
/// Throws what load_matrix would say of the parts' names, shapes and dtypes. Reads and makes nothing.
void check_matrix(const MatrixSource& from, const std::vector<WeightPart>& parts, int64_t k);
/// load_matrix is going to be asked for them soon.
void announce_matrix(const MatrixSource& from, const std::vector<WeightPart>& parts);
/// An empty matrix as load_matrix would make it for the parts: kept in FP8 if all of them are.
std::unique_ptr<Matrix> make_matrix_for(const MatrixSource& from, const std::vector<WeightPart>& parts,
                                        int64_t k);

/// A [rows, k] tensor as rows of floats, chunk by chunk; FP8 ones times their scales.
void read_floats(const BuildContext& context, const WeightPart& part, int64_t k, const TakeRows& take);

/// One f32 vector of all the parts' elements: a norm weight, or a bias for a fused projection.
Tensor load_vector(const BuildContext& context, const std::vector<WeightPart>& parts);

/// A [rows, k] tensor in spec.dtype, row-major.
Tensor load_table(const BuildContext& context, const WeightPart& part, int64_t k);

}  // namespace penstock
