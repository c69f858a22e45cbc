// `penstock plan`: how a job would be cut, what each rank would hold, and how full the pipeline would be.
#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdio>
#include <numeric>

#include "launch/commands.h"
#include "launch/job_options.h"
#include "launch/placement.h"
#include "runtime/model/kv_cache.h"

namespace penstock {
namespace {

double mib(int64_t bytes) {
  return static_cast<double>(bytes) / (1 << 20);
}

/// As many as the flags say, by count or by naming something for each; else four.
int stages_by_flags(const JobOptions& options) {
  const auto listed = [](const std::string& flag) {
    return 1 + static_cast<int>(std::count(flag.begin(), flag.end(), ','));
  };
  if (options.pipeline_parallel > 0) return options.pipeline_parallel;
  if (const int devices = listed(options.device); devices > 1) return devices;
  if (const int counts = listed(options.layer_partition); counts > 1) return counts;
  return 4;
}

/// What another cut would bring. Not where devices differ: their speeds are not known here.
void print_advice(const JobShape& shape) {
  if (!devices_are_alike(shape.devices)) return;
  const double here = imbalance(shape.partition, shape.cost);
  const double best = imbalance(partition_by_cost(shape.layout.stages, shape.cost), shape.cost);
  const double gain = here / best - 1;
  if (gain < 0.01) return;
  std::printf(
      "--layer-partition auto: %.0f %% more throughput where every stage has processors of its own (the "
      "dearest stage would be %.2f times the mean)\n",
      100 * gain, best);
}

void print_plan(const JobOptions& options, const Layout& layout, bool oversubscribed) {
  const JobShape shape = shape_job(options, layout, oversubscribed);
  const int stages = layout.stages;
  const ModelConfig& config = shape.config;
  std::printf("%s: %lld layers, hidden %lld, vocabulary %lld, in %s, up to %lld tokens a sequence\n\n",
              config.architecture.c_str(), static_cast<long long>(config.layer_count()),
              static_cast<long long>(config.hidden_size), static_cast<long long>(config.vocab_size),
              name_of(shape.dtype), static_cast<long long>(shape.max_model_len));
  if (layout.replicas > 1)
    std::printf(
        "%s on %d ranks, which share the rows: rank r is stage r %% %d of replica r / %d, and each is "
        "this\n\n",
        layout_text(layout).c_str(), layout.ranks(), stages, stages);
  const std::vector<double> costs = job_cost(shape.partition, shape.cost).by_stage;
  const double all = std::accumulate(costs.begin(), costs.end(), 0.0);
  int64_t kv_per_token = 0;
  int64_t experts = 0;
  int width = 24;
  for (const StageCut& cut : shape.partition) width = std::max(width, static_cast<int>(cut.text().size()));
  std::printf("rank  %-*s   weights MiB   KV MiB / 1000 tokens   share of the work\n", width, "part");
  for (size_t s = 0; s < shape.partition.size(); ++s) {
    const StageCut& cut = shape.partition[s];
    const int64_t kv = kv_bytes_per_block(shape, cut, options.block_size) / options.block_size;
    kv_per_token += kv;
    experts += expert_bytes(shape, cut);
    std::printf("%4zu  %-*s  %12.1f  %20.2f  %20.1f %%\n", s, width, cut.text().c_str(),
                mib(weight_bytes(shape, cut)), mib(1000 * kv), all > 0 ? 100 * costs[s] / all : 0);
  }
  const char* together = layout.replicas > 1 ? "the ranks of a replica" : "all ranks";
  std::printf("\nKV cache: %lld bytes a token over %s, in %s%s\n", static_cast<long long>(kv_per_token),
              together, name_of(shape.kv_dtype), has_scales(shape.kv_dtype) ? " and its scales" : "");
  if (experts > 0)
    std::printf("routed experts: %.1f MiB of the weights over %s, read %s\n", mib(experts), together,
                options.lazy_experts ? "as rows are routed to them (--expert-loading lazy)"
                                     : "at the start (--expert-loading lazy reads those that rows need)");

  const TimingModel timing{costs, 0.05 * all / stages};
  std::printf(
      "in flight: %d micro-batches of up to %lld tokens; bubble of the busiest stage %.1f %% (a hop taken as "
      "5 %% of a mean forward)\n",
      shape.schedule.micro_batches, static_cast<long long>(shape.max_num_batched_tokens),
      100 * predicted_bubble(shape.schedule, timing));
  print_advice(shape);
  std::printf("\nforwards, one column a unit of time, the digit is the micro-batch:\n%s",
              grid(shape.schedule, 48).c_str());
}

}  // namespace

void add_plan(CLI::App& app, Command& chosen) {
  CLI::App* sub = app.add_subcommand("plan", "Show how a job would be cut over ranks, without running it");
  auto options = std::make_shared<JobOptions>();
  auto shared_cores = std::make_shared<bool>(false);
  add_model_flags(*sub, *options);
  add_machine_flags(*sub, *options);
  sub->add_flag("--oversubscribed", *shared_cores, "Plan for ranks that share cores")->group("Machine");
  sub->callback([options, shared_cores, &chosen] {
    chosen = [options, shared_cores] {
      print_plan(*options, {std::max(1, options->data_parallel), stages_by_flags(*options)}, *shared_cores);
      return 0;
    };
  });
}

}  // namespace penstock
