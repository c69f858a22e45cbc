// What a job is asked to be: the flags of `generate` and `plan`, and what follows from them for a given model
// and world. Flag names are vLLM's where vLLM has one.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>

#include "launch/watch_options.h"
#include "runtime/device/device.h"
#include "runtime/model/config.h"
#include "runtime/pipeline/cut_cost.h"
#include "runtime/pipeline/layout.h"
#include "runtime/pipeline/partition.h"
#include "runtime/pipeline/schedule.h"
#include "runtime/requests/journal/journal.h"

namespace CLI {
class App;
}

namespace penstock {

/// How hidden states pass between GPUs of different processes: by their copy engines, over NCCL, or by
/// either, whichever can be had.
enum class GpuEdges { automatic, copy, nccl };

struct JobOptions {
  // files
  std::filesystem::path model;
  std::filesystem::path tokenizer;  // empty: the model's folder
  std::filesystem::path input;
  std::string shard = "0/1";
  std::string input_dataset;  // of an HDF5 input; empty: "prompts"
  std::string input_body;     // JSON object: request fields of an HDF5 input's rows
  std::filesystem::path output;
  bool skip_tokenizer_init = false;
  std::filesystem::path chat_template;     // empty: the model's own
  std::string generation_config = "auto";  // or vllm, or a folder
  std::string reasoning_parser;            // empty: reasoning stays in the text
  std::string served_model_name;           // empty: any name in a row is accepted
  // model
  std::string dtype = "auto";
  std::string kv_cache_dtype = "auto";
  std::string load_format = "auto";
  bool lazy_experts = false;  // each read when a row is first routed to it
  int64_t max_model_len = 0;  // 0: what the model was made for
  uint64_t seed = 0;
  // machine
  std::string device = "cpu";
  int threads = 0;            // 0: this rank's share of the cores
  int pipeline_parallel = 0;  // stages; 0: the ranks divided among the replicas
  int data_parallel = 0;      // replicas; 0: the ranks divided by the stages
  std::string layer_partition;
  GpuEdges gpu_edges = GpuEdges::automatic;
  std::string matmul_cache;       // file of algorithms chosen for products on GPUs; empty: none
  bool any_sum_order = false;     // only a benchmark's: bits then depend on the company
  double memory_utilization = 0;  // 0: 0.5 of a CPU's free memory
  int64_t kv_cache_bytes = 0;     // 0: by memory_utilization
  // scheduling; 0: chosen for the machine
  int64_t max_num_seqs = 0;
  int64_t max_num_batched_tokens = 0;
  int64_t block_size = 16;
  int micro_batches = 0;
  bool preflight = false;
  // stopping and going on
  Resume resume = Resume::automatic;
  double drain_seconds = 60;
  double max_seconds = 0;       // 0: no limit
  double progress_seconds = 0;  // 0: 1 on a terminal, else 60
  WatchOptions watch;
};

void add_model_flags(CLI::App& app, JobOptions& options);
void add_machine_flags(CLI::App& app, JobOptions& options);
void add_batch_flags(CLI::App& app, JobOptions& options);

/// What --kv-cache-dtype `name` (auto, fp8 or int8) means where `dtype` is that of the job.
DType resolve_kv_dtype(const std::string& name, DType dtype);

/// How --pipeline-parallel-size and --data-parallel-size cut a world of so many ranks; without either, one
/// replica. Throws UsageError naming the flag where that cannot be.
Layout lay_out(const JobOptions& options, int ranks);
/// Ranks that a job without a launcher has, as threads of this process.
int ranks_by_flags(const JobOptions& options);

/// Flags and model put together: what every rank must agree on.
struct JobShape {
  ModelConfig config;
  Layout layout;
  DType dtype = DType::f32;
  DType kv_dtype = DType::f32;  ///< of the KV cache
  int64_t max_model_len = 0;
  Partition partition;              ///< of a replica
  std::vector<DeviceKind> devices;  ///< by stage of a replica
  CutCost cost;
  int64_t max_num_seqs = 0;  ///< of a replica
  int64_t max_num_batched_tokens = 0;
  int64_t max_rows = 0;  ///< most sequences in one micro-batch
  Schedule schedule;

  const StageCut& cut_of(int rank) const { return partition[static_cast<size_t>(layout.stage_of(rank))]; }
  std::vector<DeviceKind> devices_by_rank() const;
};

/// Throws UsageError naming the flag when something cannot be. `oversubscribed`: stages share processors.
JobShape shape_job(const JobOptions& options, const Layout& layout, bool oversubscribed);

/// "stage 2", or "replica 1, stage 2" where there are several.
std::string stage_name(const Layout& layout, int rank);
/// "4 stages", "2 replicas of 4 stages".
std::string layout_text(const Layout& layout);

/// Bytes of K and V that one block takes on a stage.
int64_t kv_bytes_per_block(const JobShape& shape, const StageCut& cut, int64_t block_size);
int64_t weight_bytes(const JobShape& shape, const StageCut& cut);
/// Of weight_bytes: of routed experts.
int64_t expert_bytes(const JobShape& shape, const StageCut& cut);

}  // namespace penstock
