// From a weight source into the layouts that ops want. Used while a stage is being built.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "stages/build_stage.h"

namespace penstock {

/// All that the parts of a stage are built from.
struct BuildContext {
  const ModelConfig& config;
  WeightSource& source;
  const StageSpec& spec;
  Device& device;
  Ops& ops;
};

/// A named tensor and how many rows (or elements) it has.
struct WeightPart {
  std::string name;
  int64_t rows = 0;
};

/// One matrix of all the parts' rows, one below the other, each part [rows, k]. Kept in FP8 if all parts are.
std::unique_ptr<Matrix> load_matrix(const BuildContext& context, const std::vector<WeightPart>& parts,
                                    int64_t k);

/// A [rows, k] tensor as rows of floats, chunk by chunk; FP8 ones times their scales.
void read_floats(const BuildContext& context, const WeightPart& part, int64_t k, const TakeRows& take);

/// One f32 vector of all the parts' elements: a norm weight, or a bias for a fused projection.
Tensor load_vector(const BuildContext& context, const std::vector<WeightPart>& parts);

/// A [rows, k] tensor in spec.dtype, row-major.
Tensor load_table(const BuildContext& context, const WeightPart& part, int64_t k);

}  // namespace penstock
