// Makes one rank's share of a model: any run of layers, with or without the embedding before and the head
// behind.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>

#include "kernels/ops.h"
#include "runtime/model/config.h"
#include "runtime/model/weight_source.h"
#include "runtime/pipeline/stage.h"

namespace penstock {

struct StageSpec {
  int64_t first_layer = 0;
  int64_t layer_count = 0;
  bool embedding = false;
  bool head = false;
  DType dtype = DType::f32;  // of weights and matrix product inputs: f32 or bf16
  int64_t max_model_len = 0;
  int64_t block_size = 16;
  int64_t max_tokens = 0;           // largest micro-batch
  int64_t max_rows = 0;             // most sequences in one
  std::optional<DType> kv_dtype{};  // of the KV cache: f32, bf16, e4m3 or i8; none: dtype

  DType kv() const { return kv_dtype.value_or(dtype); }
};

/// Reads the stage's own weights and allocates its whole workspace; after allocate_cache, forward allocates
/// no device memory. `device` and `ops` must outlive the stage; `config` and `source` are needed during the
/// call only. Throws UsageError for a weight that is missing or misshapen, and from Stage::forward Error for
/// a plan that does not fit the spec.
///
/// With tied embeddings the table is read for the embedding and again for the head: the two are kept in
/// different layouts, also where one stage has both.
std::unique_ptr<Stage> build_stage(const ModelConfig& config, WeightSource& source, const StageSpec& spec,
                                   Device& device, Ops& ops);

}  // namespace penstock
