// Makes one rank's share of a model: any run of half layers, with or without the embedding before and the
// head behind.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>

#include "kernels/ops.h"
#include "runtime/model/config.h"
#include "runtime/model/weight_source.h"
#include "runtime/pipeline/partition.h"
#include "runtime/pipeline/stage.h"

namespace penstock {

/// When the weights of routed experts are read: with the rest, or each when a row is first routed to it.
enum class ExpertLoading { eager, lazy };

struct StageSpec {
  StageCut cut;
  DType dtype = DType::f32;  // of weights and matrix product inputs: f32 or bf16
  int64_t max_model_len = 0;
  int64_t block_size = 16;
  int64_t max_tokens = 0;  // largest micro-batch
  int64_t max_rows = 0;    // most sequences in one
  ExpertLoading experts = ExpertLoading::eager;
  std::optional<DType> kv_dtype{};  // of the KV cache: f32, bf16, e4m3 or i8; none: dtype

  DType kv() const { return kv_dtype.value_or(dtype); }
};

/// Reads the stage's own weights and allocates its whole workspace; after allocate_cache, forward allocates
/// no device memory but that of experts that come lazily. `device` and `ops` must outlive the stage, and so
/// must `source` with lazy experts, which only a CPU has; `config` is needed during the call only. Throws
/// UsageError for a weight that is missing or misshapen, lazy ones too, and from Stage::forward Error for a
/// plan that does not fit the spec, for experts that cannot be read any more and those memory has no room
/// for.
///
/// With tied embeddings the table is read for the embedding and again for the head: the two are kept in
/// different layouts, also where one stage has both.
std::unique_ptr<Stage> build_stage(const ModelConfig& config, WeightSource& source, const StageSpec& spec,
                                   Device& device, Ops& ops);

}  // namespace penstock
