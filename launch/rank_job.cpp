#include "launch/rank_job.h"

#include <sched.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <fstream>

#include "launch/agree.h"
#include "launch/expert_memory.h"
#include "launch/memory_plan.h"
#include "launch/placement.h"
#include "launch/rank_device.h"
#include "launch/stage_speed.h"
#include "launch/warm_up.h"
#include "runtime/base/log.h"
#include "runtime/model/weight_source.h"
#include "stages/build_stage.h"

namespace penstock {
namespace {

constexpr double kCpuMemoryUtilization = 0.5;
constexpr double kGpuMemoryUtilization = 0.92;

cpu_set_t allowed_cores() {
  cpu_set_t set;
  CPU_ZERO(&set);
  if (sched_getaffinity(0, sizeof set, &set) != 0) CPU_SET(0, &set);
  return set;
}

std::string core_mask() {
  const cpu_set_t set = allowed_cores();
  std::string mask;
  for (int c = 0; c < CPU_SETSIZE; ++c)
    if (CPU_ISSET(c, &set)) mask += std::to_string(c) + ",";
  return mask;
}

/// Ranks of this host that may use exactly the cores that this one may use.
int ranks_on_these_cores(World& world) {
  const std::string mine = world.info(world.rank()).host + " " + core_mask();
  const std::vector<std::string> all = world.gather_all(mine);
  return static_cast<int>(std::count(all.begin(), all.end(), mine));
}

std::unique_ptr<WeightSource> open_weights(const JobOptions& options) {
  if (options.load_format == "dummy") return make_dummy_weights(options.seed);
  return open_checkpoint(options.model);
}

/// What is left for KV once everything else is there: of a GPU, its share of the whole memory less what is
/// used already, divided among its ranks; of a CPU, whose memory others use too, a share of what is free and
/// not for experts that come later.
int64_t kv_share(const World& world, const JobOptions& options, const Device& device, int sharers,
                 uint64_t experts_to_come) {
  const MemoryInfo memory = device.memory();
  const auto free = static_cast<double>(memory.free);
  if (device.kind() == DeviceKind::cuda) {
    const double share = options.memory_utilization > 0 ? options.memory_utilization : kGpuMemoryUtilization;
    return static_cast<int64_t>(std::max(0.0, free - (1 - share) * static_cast<double>(memory.total)) /
                                sharers);
  }
  const double share = options.memory_utilization > 0 ? options.memory_utilization : kCpuMemoryUtilization;
  return static_cast<int64_t>(share * static_cast<double>(free_beside_experts(memory.free, experts_to_come)) /
                              world.local_size());
}

int64_t blocks_a_row(const JobShape& shape, int64_t block_size) {
  return (shape.max_model_len + block_size - 1) / block_size;
}

/// How many KV blocks this stage has room for; more than the job could ever use helps nobody.
int64_t affordable_blocks(const World& world, const JobOptions& options, const JobShape& shape,
                          const Device& device, const Stage& stage, int sharers, uint64_t experts_to_come) {
  const int64_t a_row = blocks_a_row(shape, options.block_size);
  const int64_t usable = usable_blocks(shape, options.block_size);
  const auto per_block = static_cast<int64_t>(stage.kv_bytes_per_block());
  if (per_block == 0) return usable;
  const auto buffers =
      static_cast<int64_t>(Runner::buffer_bytes(stage, shape.schedule, {0, 0, shape.max_num_batched_tokens}));
  const int64_t bytes =
      options.kv_cache_bytes > 0
          ? options.kv_cache_bytes
          : std::max<int64_t>(0, kv_share(world, options, device, sharers, experts_to_come) - buffers);
  const int64_t blocks = std::min(usable, bytes / per_block);
  if (blocks < a_row)
    throw UsageError(
        "the KV cache: expected room for one sequence of --max-model-len " +
        std::to_string(shape.max_model_len) + " tokens (" + std::to_string(a_row * per_block >> 20) +
        " MiB on this stage), found " + std::to_string(bytes >> 20) +
        " MiB; lower --max-model-len, or raise --kv-cache-memory-bytes or --gpu-memory-utilization");
  return blocks;
}

std::string numerics_name(DType dtype, DType kv_dtype, const Ops& ops) {
  const std::string kv = kv_dtype == dtype ? "" : std::string(" KV ") + name_of(kv_dtype);
  return name_of(dtype) + kv + " " + ops.numerics();
}

/// How numbers are computed, the same on every stage that computes: looking up embeddings is exact
/// everywhere.
std::string agreed_numerics(World& world, const JobShape& shape, DType kv_dtype, const Ops& ops) {
  const StageCut& cut = shape.cut_of(world.rank());
  const bool computes = cut.halves > 0 || cut.head;
  const std::string mine = numerics_name(shape.dtype, kv_dtype, ops);
  const std::vector<std::string> all = world.gather_all(computes ? mine : std::string());
  const auto first = std::find_if(all.begin(), all.end(), [](const std::string& n) { return !n.empty(); });
  const std::string& expected = first == all.end() ? mine : *first;
  check_same(world, "how numbers are computed (ranks on different processors give different bits)",
             computes ? mine : expected);
  return expected;
}

std::vector<StageFacts> gather_facts(World& world, const JobShape& shape, const Device& device, int threads) {
  const std::string mine =
      world.info(world.rank()).host + '\n' + device.name() + '\n' + std::to_string(threads);
  std::vector<StageFacts> facts;
  for (const std::string& text : world.gather_all(mine)) {
    const size_t first = text.find('\n');
    const size_t second = text.find('\n', first + 1);
    facts.push_back({text.substr(0, first), text.substr(first + 1, second - first - 1),
                     shape.cut_of(static_cast<int>(facts.size())).text(),
                     std::stoi(text.substr(second + 1))});
  }
  return facts;
}

}  // namespace

int64_t usable_blocks(const JobShape& shape, int64_t block_size) {
  return std::min<int64_t>(blocks_a_row(shape, block_size) * shape.max_num_seqs, INT32_MAX);
}

int usable_cores() {
  const cpu_set_t set = allowed_cores();
  return std::max(1, CPU_COUNT(&set));
}

uint64_t peak_resident_bytes() {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  return static_cast<uint64_t>(usage.ru_maxrss) * 1024;
}

uint64_t resident_bytes() {
  std::ifstream file("/proc/self/statm");
  uint64_t all_pages = 0;
  uint64_t resident_pages = 0;
  file >> all_pages >> resident_pages;
  return resident_pages * static_cast<uint64_t>(sysconf(_SC_PAGESIZE));
}

ReadyRank make_ready(World& world, const JobOptions& options) {
  ReadyRank ready;
  const int sharers = ranks_on_these_cores(world);
  const int threads = options.threads > 0 ? options.threads : std::max(1, usable_cores() / sharers);
  const bool oversubscribed = !names_gpu(options.device) && threads * sharers > usable_cores();

  agree(world, [&]() -> std::string {
    ready.shape = shape_job(options, lay_out(options, world.size()), oversubscribed);
    return {};
  });
  const JobShape& shape = ready.shape;
  const StageCut& cut = shape.cut_of(world.rank());

  // Ranks on other hosts may see other files or other flags: the schedule must be one.
  check_same(
      world, "the job",
      shape.config.architecture + " hidden " + std::to_string(shape.config.hidden_size) + " layers " +
          std::to_string(shape.config.layer_count()) + " vocab " + std::to_string(shape.config.vocab_size) +
          " in " + layout_text(shape.layout) + " cut " + flag_text(shape.partition) + " " +
          name_of(shape.dtype) + " KV " + name_of(shape.kv_dtype) + " max-model-len " +
          std::to_string(shape.max_model_len) + " max-num-seqs " + std::to_string(shape.max_num_seqs) +
          " max-num-batched-tokens " + std::to_string(shape.max_num_batched_tokens) + " micro-batches " +
          std::to_string(shape.schedule.micro_batches) + " block-size " + std::to_string(options.block_size));

  const StageSpec spec{cut,
                       shape.dtype,
                       shape.max_model_len,
                       options.block_size,
                       shape.max_num_batched_tokens,
                       shape.max_rows,
                       options.lazy_experts ? ExpertLoading::lazy : ExpertLoading::eager,
                       shape.kv_dtype};
  RankDevice opened = open_device(world, shape.devices_by_rank());
  ready.device = std::move(opened.device);
  ready.gpu_id = opened.gpu_id;
  ready.device_bytes = ready.device->memory().total;
  const bool on_gpu = ready.device->kind() == DeviceKind::cuda;
  agree(world, [&]() -> std::string {
    ready.ops = on_gpu ? make_cuda_ops(*ready.device, {options.any_sum_order, options.matmul_cache})
                       : make_cpu_ops(*ready.device, threads);
    ready.weights = open_weights(options);
    ready.stage = build_stage(shape.config, *ready.weights, spec, *ready.device, *ready.ops);
    if (!options.lazy_experts) ready.weights.reset();
    if (!on_gpu) return {};
    // What the largest micro-batch takes besides the planned memory (kernels, libraries) is in use before the
    // rest becomes cache.
    ready.stage->allocate_cache(warm_up_blocks(spec));
    warm_up(*ready.stage, *ready.device, spec, shape.config.vocab_size);
    return {};
  });
  ready.edges = make_edges(world, *ready.device, shape.layout, shape.devices_by_rank(),
                           opened.gpus_are_shared, options.gpu_edges);
  const uint64_t experts_to_come = experts_to_come_here(world, *ready.stage);
  const std::vector<std::string> affordable = agree(world, [&]() -> std::string {
    return std::to_string(affordable_blocks(world, options, shape, *ready.device, *ready.stage,
                                            opened.sharers, experts_to_come));
  });
  ready.blocks = INT64_MAX;
  for (const std::string& blocks : affordable)
    ready.blocks = std::min<int64_t>(ready.blocks, std::stoll(blocks));
  agree(world, [&]() -> std::string {
    ready.stage->allocate_cache(ready.blocks);
    return {};
  });
  ready.slowness = agree_on_slowness(world, ready, spec, opened.gpus_are_shared);
  warn_of_experts_without_room(world, *ready.device, *ready.stage, ready.blocks, experts_to_come);
  const ExpertUse experts = ready.stage->expert_use();
  ready.planned_bytes =
      planned_bytes(world, *ready.device,
                    ready.stage->kv_bytes_per_block() * static_cast<uint64_t>(ready.blocks) + experts.bytes -
                        experts.held_bytes);
  ready.numerics = agreed_numerics(world, shape, shape.kv_dtype, *ready.ops);
  ready.full_numerics = agreed_numerics(world, shape, shape.dtype, *ready.ops);
  ready.facts = gather_facts(world, shape, *ready.device, threads);
  if (oversubscribed && sharers == world.size())
    ready.processors = std::max(1, usable_cores() / threads / shape.layout.replicas);
  return ready;
}

}  // namespace penstock
