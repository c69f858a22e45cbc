#include "launch/job_options.h"

#include <CLI/CLI.hpp>

#include "launch/flag_checks.h"
#include "launch/placement.h"
#include "runtime/model/model_cost.h"

namespace penstock {
namespace {

// On these CPUs a matrix product reaches its best rate from about 32 rows on; 64 rows a micro-batch leave
// room for rows that end. docs/architecture.md, "Choosing sizes".
constexpr int64_t kRowsPerMicroBatch = 64;
constexpr int64_t kTokensPerMicroBatch = 512;
// A GPU multiplies 1024 rows in little more time than it takes to read the weights; longer prefill chunks
// fill it.
constexpr int64_t kGpuRowsPerMicroBatch = 1024;
constexpr int64_t kGpuTokensPerMicroBatch = 8192;
constexpr int64_t kMostTokensPerMicroBatch = 65536;
// What `bench pipeline` measures of arithmetic for each byte read, roughly: bfloat16 on two cores, and on an
// H100. Decides only how --layer-partition auto weighs what is read, and what is multiplied.
constexpr double kFlopsPerByte = 12;
constexpr double kGpuFlopsPerByte = 250;
constexpr double kUsualContext = 1024;

int64_t chosen_max_model_len(const JobOptions& options, const ModelConfig& config) {
  const int64_t most = default_max_model_len(config);
  if (options.max_model_len > most)
    throw UsageError("--max-model-len: expected at most " + std::to_string(most) +
                     " (max_position_embeddings of the model's config.json, times the factor of its rope "
                     "scaling), found " +
                     std::to_string(options.max_model_len));
  return options.max_model_len > 0 ? options.max_model_len : most;
}

/// Of a job whose tokens are half prompts and half answers: only the latter read the cache and want logits.
CutCost cut_cost(const ModelConfig& config, DType dtype, DType kv_dtype, int64_t max_model_len, bool on_gpu) {
  const int64_t rows = on_gpu ? kGpuRowsPerMicroBatch : kRowsPerMicroBatch;
  const double per_byte = on_gpu ? kGpuFlopsPerByte : kFlopsPerByte;
  const double context = std::min(kUsualContext, static_cast<double>(max_model_len) * 3 / 4);
  CutCost cost;
  cost.embedding = embedding_cost(config, dtype).flops_per_token;
  const double logits_bytes = 2.0 * bytes_of(DType::f32) * static_cast<double>(config.vocab_size);
  cost.head = head_cost(config, dtype).flops_per_token + per_byte * logits_bytes;
  for (int64_t half = 0; half < 2 * config.layer_count(); ++half) {
    const bool attention = half % 2 == 0;
    cost.halves.push_back(half_work_per_token(config, half, dtype, rows, per_byte));
    cost.cache.push_back(
        attention ? per_byte * static_cast<double>(kv_bytes_per_block(config, half / 2, kv_dtype, 1)) : 0);
    // Experts are most of a model: they are not held twice.
    cost.may_be_shared.push_back(!attention && half_cost(config, half, dtype).expert_bytes == 0);
  }
  cost.phases = {{1, 0, 0}, {1, 1, context}};
  return cost;
}

/// Whether all sequences at their longest are more than the caches of as many GPUs as there are stages hold.
/// The GPUs themselves are not known yet.
bool cache_is_short_on_usual_gpus(const JobShape& shape) {
  constexpr double kUsable = 0.85 * 80e9;
  const StageCut whole = default_partition(shape.config.layer_count(), 1).front();
  const auto a_token = static_cast<double>(kv_bytes_per_block(shape, whole, 1));
  return a_token * static_cast<double>(shape.max_num_seqs) * static_cast<double>(shape.max_model_len) >
         kUsable * shape.layout.stages - static_cast<double>(weight_bytes(shape, whole));
}

}  // namespace

DType resolve_kv_dtype(const std::string& name, DType dtype) {
  return name == "fp8" ? DType::e4m3 : name == "int8" ? DType::i8 : dtype;
}

void add_model_flags(CLI::App& app, JobOptions& o) {
  const char* group = "Model";
  app.add_option("--model,-m", o.model, "Folder with config.json, safetensors and tokenizer.json")
      ->required()
      ->group(group);
  app.add_option("--tokenizer", o.tokenizer, "Folder with tokenizer.json, when it is not the model's")
      ->group(group);
  app.add_flag("--skip-tokenizer-init", o.skip_tokenizer_init, "Prompts and answers are token ids only")
      ->group(group);
  app.add_option("--dtype", o.dtype,
                 "Of weights, KV cache and products: auto (the checkpoint's), float32, bfloat16")
      ->check(CLI::IsMember({"auto", "float32", "bfloat16"}))
      ->group(group)
      ->capture_default_str();
  app.add_option(
         "--kv-cache-dtype", o.kv_cache_dtype,
         "Of the KV cache: auto (--dtype's), fp8 (E4M3) or int8, with a scale for each token's vectors")
      ->check(CLI::IsMember({"auto", "fp8", "int8"}))
      ->group(group)
      ->capture_default_str();
  app.add_option(
         "--load-format", o.load_format,
         "auto reads the folder's safetensors; dummy makes seeded random weights from config.json alone")
      ->check(CLI::IsMember({"auto", "safetensors", "dummy"}))
      ->group(group)
      ->capture_default_str();
  add_choice(app, "--expert-loading", o.lazy_experts, {{"eager", false}, {"lazy", true}},
             "eager reads all experts at the start; lazy reads each when a row is first routed to it [eager]")
      ->group(group);
  app.add_option("--max-model-len", o.max_model_len,
                 "Longest prompt and answer together, in tokens [the model's]")
      ->check(at_least(1))
      ->group(group);
  app.add_option("--seed", o.seed, "Of rows that give none, and of dummy weights")
      ->group(group)
      ->capture_default_str();
}

void add_machine_flags(CLI::App& app, JobOptions& o) {
  const char* group = "Machine";
  app.add_option(
         "--device", o.device,
         "cpu, cuda (a stage with the embedding alone stays on its host), or one for each stage of a replica "
         "as in cpu,cuda,cuda")
      ->group(group)
      ->capture_default_str();
  app.add_option("--threads", o.threads,
                 "CPU threads a rank [the cores of this host, shared among its ranks]")
      ->check(CLI::Range(1, 1024))
      ->group(group);
  app.add_option(
         "--pipeline-parallel-size,--pp", o.pipeline_parallel,
         "Pipeline stages of a replica [all ranks, divided among the replicas]; without mpirun, stages "
         "run as threads of this process")
      ->check(CLI::Range(1, 4096))
      ->group(group);
  app.add_option(
         "--data-parallel-size,--dp", o.data_parallel,
         "Replicas: whole pipelines beside each other, which share the rows [ranks / stages; 1]. Sizes "
         "and --max-num-seqs are those of one replica")
      ->check(CLI::Range(1, 4096))
      ->group(group);
  app.add_option("--layer-partition", o.layer_partition,
                 "Layers by stage, such as 0,6,6,6 or 6.5,6,5.5 (half a layer is its attention or its MLP) "
                 "or 8.75,9.25 (both stages hold the MLP of layer 8 and run it in turns), or auto for an "
                 "even cost [embedding alone, then evenly]")
      ->group(group);
  add_choice(app, "--gpu-edges", o.gpu_edges,
             {{"auto", GpuEdges::automatic}, {"copy", GpuEdges::copy}, {"nccl", GpuEdges::nccl}},
             "How hidden states pass between GPUs of different processes: copy (by their copy engines, on "
             "one host), nccl, or auto (copy where the GPUs reach each other's memory, else nccl) [auto]")
      ->group(group);
  app.add_option("--matmul-cache", o.matmul_cache,
                 "File that keeps which algorithms multiply fastest on this GPU, so that the next job need "
                 "not try [none]")
      ->group(group);
  app.add_option(
         "--gpu-memory-utilization", o.memory_utilization,
         "Share of a GPU's memory to fill [0.92], or of a CPU's free memory for the KV cache [0.5, divided "
         "among the host's ranks]")
      ->check(CLI::Range(0.01, 1.0))
      ->group(group);
  app.add_option("--kv-cache-memory-bytes", o.kv_cache_bytes, "The KV cache of each rank, instead of a share")
      ->check(at_least(1))
      ->group(group);
  app.add_option(
         "--max-num-seqs", o.max_num_seqs,
         "Sequences running at once, over all micro-batches [64 a micro-batch, 128 with one stage; 1024 a "
         "micro-batch on GPUs]")
      ->check(at_least(1))
      ->group(group);
  app.add_option("--max-num-batched-tokens", o.max_num_batched_tokens,
                 "Tokens a micro-batch [512; 8192 on a GPU]")
      ->check(CLI::Range(int64_t{1}, kMostTokensPerMicroBatch))
      ->group(group);
  app.add_option("--block-size", o.block_size, "Tokens a KV block")
      ->check(CLI::Range(1, 1024))
      ->group(group)
      ->capture_default_str();
  app.add_option(
         "--micro-batches", o.micro_batches,
         "Micro-batches in flight [1 for one stage, stages + 1, or twice the stages when they share cores]")
      ->check(CLI::Range(1, 4096))
      ->group(group);
}

void add_batch_flags(CLI::App& app, JobOptions& o) {
  const char* group = "Batch";
  app.add_option(
         "-i,--input-file", o.input,
         "OpenAI Batch file: one JSON request a line; - is standard input; or prompts in HDF5 (.h5, .hdf5)")
      ->required()
      ->group(group);
  app.add_option("--input-dataset", o.input_dataset,
                 "Of an HDF5 input: a data set of strings, or a group with token ids and offsets [prompts]")
      ->group(group);
  app.add_option("--input-body", o.input_body,
                 "Of an HDF5 input: the fields of every request, as {\"max_tokens\": 64, \"temperature\": 0}")
      ->group(group);
  app.add_option("--shard", o.shard, "I/N: answer only part I of N (from 0) of the input's rows")
      ->group(group)
      ->capture_default_str();
  app.add_option("-o,--output-file", o.output,
                 "One answer a line, in the input's order; or HDF5 (.h5, .hdf5)")
      ->required()
      ->group(group);
  app.add_option("--served-model-name", o.served_model_name,
                 "Rows that name another model are errors [any name]")
      ->group(group);
  app.add_flag("--preflight", o.preflight,
               "Check hosts, network, shared folders, space and clocks, print a table, and run nothing")
      ->group(group);
  add_choice(app, "--resume", o.resume,
             {{"auto", Resume::automatic}, {"force", Resume::force}, {"never", Resume::never}},
             "When an earlier job left rows in the journal beside the output: auto goes on where it was the "
             "same job, force goes on whatever has changed, never starts over [auto]")
      ->group(group);
  app.add_option("--drain-seconds", o.drain_seconds,
                 "After SIGTERM, SIGINT or SIGUSR1: for how long the job may take to save what it has")
      ->check(CLI::Range(0.1, 86400.0))
      ->group(group)
      ->capture_default_str();
  app.add_option("--max-seconds", o.max_seconds,
                 "Stop in time to have ended after so long, as if signalled [no limit]")
      ->check(CLI::Range(1.0, 1e9))
      ->group(group);
  app.add_option("--chat-template", o.chat_template,
                 "A Jinja file for /v1/chat/completions rows [the model folder's]")
      ->group(group);
  app.add_option(
         "--generation-config", o.generation_config,
         "Defaults of sampling: auto (the model folder's generation_config.json), vllm (vLLM's own), or a "
         "folder with such a file")
      ->group(group)
      ->capture_default_str();
  app.add_option("--reasoning-parser", o.reasoning_parser,
                 "deepseek_r1: what a chat's answer holds before </think> becomes reasoning_content [off]")
      ->check(CLI::IsMember({"deepseek_r1"}))
      ->group(group);
  app.add_option("--progress-seconds", o.progress_seconds,
                 "Between progress lines [1 on a terminal, else 60]")
      ->check(CLI::Range(0.1, 86400.0))
      ->group(group);
}

Layout lay_out(const JobOptions& options, int ranks) {
  const int stages = options.pipeline_parallel;
  const int replicas = options.data_parallel;
  if (stages > 0 && replicas > 0 && stages * replicas != ranks)
    throw UsageError("--pipeline-parallel-size times --data-parallel-size: expected the number of ranks, " +
                     std::to_string(ranks) + ", found " + std::to_string(stages) + " times " +
                     std::to_string(replicas));
  if (stages > 0) {
    if (ranks % stages != 0)
      throw UsageError("--pipeline-parallel-size: expected a divisor of the number of ranks, " +
                       std::to_string(ranks) + ", found " + std::to_string(stages));
    return {ranks / stages, stages};
  }
  if (replicas == 0) return {1, ranks};
  if (ranks % replicas != 0)
    throw UsageError("--data-parallel-size: expected a divisor of the number of ranks, " +
                     std::to_string(ranks) + ", found " + std::to_string(replicas));
  return {replicas, ranks / replicas};
}

int ranks_by_flags(const JobOptions& options) {
  return std::max(1, options.pipeline_parallel) * std::max(1, options.data_parallel);
}

std::string stage_name(const Layout& layout, int rank) {
  return (layout.replicas > 1 ? "replica " + std::to_string(layout.replica_of(rank)) + ", " : "") + "stage " +
         std::to_string(layout.stage_of(rank));
}

std::string layout_text(const Layout& layout) {
  return (layout.replicas > 1 ? std::to_string(layout.replicas) + " replicas of " : "") +
         std::to_string(layout.stages) + (layout.stages == 1 ? " stage" : " stages");
}

std::vector<DeviceKind> JobShape::devices_by_rank() const {
  std::vector<DeviceKind> kinds;
  for (int r = 0; r < layout.ranks(); ++r) kinds.push_back(devices[static_cast<size_t>(layout.stage_of(r))]);
  return kinds;
}

JobShape shape_job(const JobOptions& options, const Layout& layout, bool oversubscribed) {
  const int stages = layout.stages;
  JobShape shape;
  shape.layout = layout;
  shape.config = load_model_config(options.model);
  if (options.load_format == "dummy") shape.config.fp8.reset();  // made in bfloat16, whatever the file has
  if (names_gpu(options.device) && options.lazy_experts)
    throw UsageError(
        "--expert-loading lazy: expected --device cpu, as the host must see where rows are "
        "routed to; found --device " +
        options.device);
  shape.dtype = resolve_dtype(options.dtype, shape.config);
  shape.kv_dtype = resolve_kv_dtype(options.kv_cache_dtype, shape.dtype);
  shape.max_model_len = chosen_max_model_len(options, shape.config);
  const int micro_batches =
      options.micro_batches > 0 ? options.micro_batches : default_micro_batches(stages, oversubscribed);
  shape.schedule = make_generation_schedule(stages, micro_batches);
  // One stage has no one to wait for: a larger batch only shares each reading of the weights among more rows.
  const bool on_gpu = names_gpu(options.device);
  const int64_t rows = on_gpu        ? kGpuRowsPerMicroBatch * micro_batches
                       : stages == 1 ? 2 * kRowsPerMicroBatch
                                     : kRowsPerMicroBatch * micro_batches;
  shape.max_num_seqs = options.max_num_seqs > 0 ? options.max_num_seqs : rows;
  shape.cost = cut_cost(shape.config, shape.dtype, shape.kv_dtype, shape.max_model_len, on_gpu);
  shape.cost.cache_is_short = on_gpu && cache_is_short_on_usual_gpus(shape);
  std::vector<double> slowness = slowness_of_devices(options.device);
  if (slowness.size() != static_cast<size_t>(stages)) slowness.clear();  // parse_devices says so
  shape.partition = parse_partition(options.layer_partition, stages, shape.cost, slowness);
  shape.devices = parse_devices(options.device, shape.partition);
  shape.max_num_batched_tokens = options.max_num_batched_tokens > 0 ? options.max_num_batched_tokens
                                 : on_gpu                           ? kGpuTokensPerMicroBatch
                                                                    : kTokensPerMicroBatch;
  shape.max_rows = std::min(shape.max_num_seqs, shape.max_num_batched_tokens);
  return shape;
}

int64_t kv_bytes_per_block(const JobShape& shape, const StageCut& cut, int64_t block_size) {
  int64_t bytes = 0;
  for (int64_t half = cut.first_half; half < cut.first_half + cut.halves; ++half)
    if (half % 2 == 0) bytes += kv_bytes_per_block(shape.config, half / 2, shape.kv_dtype, block_size);
  return bytes;
}

int64_t weight_bytes(const JobShape& shape, const StageCut& cut) {
  int64_t bytes = 0;
  if (cut.embedding) bytes += embedding_cost(shape.config, shape.dtype).weight_bytes;
  if (cut.head) bytes += head_cost(shape.config, shape.dtype).weight_bytes;
  for (int64_t half = cut.first_half; half < cut.first_half + cut.halves; ++half)
    bytes += half_cost(shape.config, half, shape.dtype).weight_bytes;
  return bytes;
}

int64_t expert_bytes(const JobShape& shape, const StageCut& cut) {
  int64_t bytes = 0;
  for (int64_t half = cut.first_half; half < cut.first_half + cut.halves; ++half)
    bytes += half_cost(shape.config, half, shape.dtype).expert_bytes;
  return bytes;
}

}  // namespace penstock
