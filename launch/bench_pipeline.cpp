// `penstock bench pipeline`: a whole generation job on made-up prompts, in tokens per second and as a share
// of the multiply-add peak measured in the same run. Counts 2 FLOP per multiplied weight and token: all
// layers for each token, the head for each token whose logits are wanted.
#include <CLI/CLI.hpp>
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <deque>
#include <filesystem>
#include <optional>
#include <sstream>

#include "kernels/bench.h"
#include "launch/agree.h"
#include "launch/bench.h"
#include "launch/bench_edges.h"
#include "launch/decode_bounds.h"
#include "launch/flag_checks.h"
#include "launch/job_description.h"
#include "launch/placement.h"
#include "launch/rank_job.h"
#include "launch/run_ranks.h"
#include "launch/stage_speed.h"
#include "runtime/base/rng.h"
#include "runtime/metrics/trace.h"
#include "runtime/model/model_cost.h"
#include "runtime/pipeline/plan_desk.h"
#include "runtime/pipeline/runner.h"
#include "runtime/requests/scheduler.h"

namespace penstock {
namespace {

using Clock = std::chrono::steady_clock;

struct BenchFlags {
  JobOptions job;
  int64_t prompts = 64;
  int64_t input_len = 184;
  int64_t output_len = 64;
  int64_t warm_ups = 1;
  std::filesystem::path trace;  // empty: none
};

/// Plans `prompts` sequences of random tokens, evenly over the replicas, and measures when their prefill ends
/// and when all ends. The same sequences run `warm_ups` times before: a KV block's first use makes the system
/// find and clear its pages, which takes seconds a GiB on a virtual machine and happens once in a job of any
/// length.
class BenchPlans final : public Planner {
 public:
  BenchPlans(const BenchFlags& flags, const ReadyRank& ready, int64_t block_size)
      : flags_(flags),
        vocabulary_(static_cast<uint64_t>(ready.shape.config.vocab_size)),
        passes_left_(flags.warm_ups) {
    for (int r = 0; r < ready.shape.layout.replicas; ++r)
      schedulers_
          .emplace_back(SchedulerLimits{ready.shape.max_num_seqs, ready.shape.max_num_batched_tokens,
                                        block_size, ready.blocks, ready.shape.schedule.micro_batches})
          .input_ended();
    begin_pass();
  }

  proto::Plan plan(int replica, int slot) override {
    proto::Plan plan = of(replica).plan(slot);
    for (const auto& row : plan.rows()) {
      if (row.tokens_size() == 1 && row.has_sampling() && row.sampling().position() > 0) continue;
      // Some prompt is still being filled: the decode phase has not begun.
      decode_begin_.reset();
      decode_tokens_ = 0;
      decode_steps_ = 0;
      return plan;
    }
    if (!decode_begin_) decode_begin_ = Clock::now();
    return plan;
  }

  void take_in(int replica, int slot, const proto::StepResult& result) override {
    decode_tokens_ += decode_begin_ ? result.tokens_size() : 0;
    decode_steps_ += decode_begin_ ? 1 : 0;
    of(replica).complete(slot, result);
    end_ = Clock::now();
  }

  std::optional<bool> finished(int replica) override {
    if (!of(replica).empty()) return false;
    if (!std::all_of(schedulers_.begin(), schedulers_.end(), [](const Scheduler& s) { return s.empty(); }))
      return std::nullopt;
    if (passes_left_ == 0) return true;
    --passes_left_;
    begin_pass();
    return false;
  }

  double seconds() const { return std::chrono::duration<double>(end_ - begin_).count(); }
  double decode_seconds() const {
    return decode_begin_ ? std::chrono::duration<double>(end_ - *decode_begin_).count() : 0;
  }
  int64_t decode_tokens() const { return decode_tokens_; }
  int64_t decode_steps() const { return decode_steps_; }
  int64_t preemptions() const {
    int64_t sum = 0;
    for (const Scheduler& s : schedulers_) sum += s.preemptions();
    return sum;
  }

 private:
  Scheduler& of(int replica) { return schedulers_.at(static_cast<size_t>(replica)); }

  void begin_pass() {
    for (int64_t s = 0; s < flags_.prompts; ++s) {
      SequenceSpec spec;
      spec.id = static_cast<uint64_t>(s) + 1;
      for (int64_t i = 0; i < flags_.input_len; ++i)
        spec.prompt.push_back(
            static_cast<int32_t>(philox(spec.id, static_cast<uint64_t>(i))[0] % vocabulary_));
      spec.max_tokens = flags_.output_len;
      spec.sampling.set_logprobs(-1);
      schedulers_[static_cast<size_t>(s) % schedulers_.size()].add(std::move(spec));
    }
    begin_ = end_ = Clock::now();
    decode_begin_.reset();
    decode_tokens_ = 0;
  }

  std::deque<Scheduler> schedulers_;  // by replica
  BenchFlags flags_;
  uint64_t vocabulary_;
  int64_t passes_left_;
  Clock::time_point begin_;
  Clock::time_point end_;
  std::optional<Clock::time_point> decode_begin_;
  int64_t decode_tokens_ = 0;
  int64_t decode_steps_ = 0;
};

/// Stages of all replicas that compute: they work on steps of their own at the same time.
int64_t computing_ranks(const JobShape& shape) {
  return shape.layout.replicas * std::count_if(shape.partition.begin(), shape.partition.end(),
                                               [](const StageCut& c) { return c.halves > 0 || c.head; });
}

/// A rate in the unit that suits its machine.
std::string rate_text(double per_second, const char* what) {
  char text[64];
  if (per_second >= 1e13)
    std::snprintf(text, sizeof text, "%.1f T%s/s", 1e-12 * per_second, what);
  else
    std::snprintf(text, sizeof text, "%.1f G%s/s", 1e-9 * per_second, what);
  return text;
}

void print_share(const char* what, double tokens, double seconds, double flops, double peak) {
  if (seconds <= 0 || tokens <= 0) return;
  std::printf("%-22s %9.0f tokens in %7.2f s: %8.1f tokens/s, %s, %5.1f %% of the peak\n", what, tokens,
              seconds, tokens / seconds, rate_text(flops / seconds, "FLOP").c_str(),
              100 * flops / seconds / peak);
}

void print_figures(const BenchFlags& flags, const ReadyRank& ready, const BenchPlans& plans,
                   const DecodeStep& step, const MachineBounds& bounds) {
  // Measured of one GPU; of CPUs, of all the cores that the ranks of this host share.
  const double peak = bounds.bf16_flops *
                      (any_gpu(ready.shape.devices) ? static_cast<double>(computing_ranks(ready.shape)) : 1);
  const ModelConfig& config = ready.shape.config;
  const double head = head_cost(config, ready.shape.dtype).flops_per_token;
  double layers = 0;
  for (int64_t l = 0; l < config.layer_count(); ++l)
    layers += layer_cost(config, l, ready.shape.dtype).flops_per_token;
  const auto prompt_tokens = static_cast<double>(flags.prompts * flags.input_len);
  const auto output_tokens = static_cast<double>(flags.prompts * flags.output_len);
  // The last token of an answer is never fed back.
  const double all =
      (prompt_tokens + output_tokens - static_cast<double>(flags.prompts)) * layers + output_tokens * head;
  if (flags.output_len == 1) {
    print_share("prefill", prompt_tokens, plans.seconds(), all, peak);
    return;
  }
  print_share("whole job, output", output_tokens, plans.seconds(), all, peak);
  const auto decoded = static_cast<double>(plans.decode_tokens());
  print_share("decode phase", decoded, plans.decode_seconds(), decoded * (layers + head), peak);
  if (plans.decode_seconds() <= 0) return;
  std::printf("%-22s %s\n", "",
              floor_text(step, bounds, bounds.bf16_flops,
                         plans.decode_seconds() / static_cast<double>(plans.decode_steps()),
                         static_cast<int>(computing_ranks(ready.shape)))
                  .c_str());
}

/// What each stage did with the time from its first forward to its last, and how fast the edge into it is.
void print_stages(const ReadyRank& ready, const std::vector<proto::StageReport>& reports,
                  const std::vector<double>& rates) {
  const bool replicas = ready.shape.layout.replicas > 1;
  int width = 20;
  for (const StageFacts& facts : ready.facts) width = std::max(width, static_cast<int>(facts.part.size()));
  std::printf("%s  %-*s    busy   input    plan    send   edge into it\n", replicas ? " rank" : "stage",
              width, "part");
  for (size_t s = 0; s < reports.size(); ++s) {
    const proto::StageReport& r = reports[s];
    // A replica that has nothing left waits on after its last forward.
    const double span =
        std::max({1e-9, r.span_seconds(),
                  r.busy_seconds() + r.wait_input_seconds() + r.wait_plan_seconds() + r.send_seconds()});
    std::printf(
        "%5zu  %-*s %5.1f %%  %4.1f %%  %4.1f %%  %4.1f %%   %s\n", s, width, ready.facts[s].part.c_str(),
        100 * r.busy_seconds() / span, 100 * r.wait_input_seconds() / span,
        100 * r.wait_plan_seconds() / span, 100 * r.send_seconds() / span,
        ready.shape.layout.stage_of(static_cast<int>(s)) == 0 ? "" : rate_text(rates[s], "B").c_str());
  }
}

/// What the cut took each stage to cost, with the turns that the job took: as TurnTaker does, prompts and
/// answers, the two phases, each at the speeds that were measured.
std::vector<double> expected_costs(const ReadyRank& ready) {
  const JobShape& shape = ready.shape;
  std::vector<double> costs(shape.partition.size(), 0);
  for (const Load& phase : shape.cost.phases) {
    CutCost alone = shape.cost;
    alone.phases = {phase};
    std::vector<double> slowness;
    for (const Slowness& s : slowness_of_replica(ready, 0))
      slowness.push_back(phase.rows > 0 ? s.answers : s.prompts);
    const std::vector<double> times = job_cost(shape.partition, alone, slowness).by_stage;
    for (size_t s = 0; s < costs.size(); ++s) costs[s] += slowness[s] > 0 ? times[s] / slowness[s] : 0;
  }
  return costs;
}

/// What the stages' busy times, beside what they were taken to cost, say of a better cut.
void print_evener_cut(const ReadyRank& ready, int64_t block_size,
                      const std::vector<proto::StageReport>& reports) {
  const JobShape& shape = ready.shape;
  if (shape.layout.replicas > 1 || shape.layout.stages == 1 || !devices_are_alike(shape.devices)) return;
  const std::vector<double> costs = expected_costs(ready);
  double busy = 0, all = 0;
  for (size_t s = 0; s < reports.size(); ++s) {
    busy += costs[s] > 0 ? reports[s].busy_seconds() : 0;
    all += costs[s];
  }
  if (busy <= 0) return;
  // A stage that holds the embedding alone, which costs nothing, is taken to be as fast as the others.
  std::vector<double> slowness;
  for (size_t s = 0; s < reports.size(); ++s)
    slowness.push_back(costs[s] > 0 ? reports[s].busy_seconds() / costs[s] : busy / all);
  CutCost cost = shape.cost;
  cost.cache_is_short = ready.blocks < usable_blocks(shape, block_size);
  const Partition better = partition_by_cost(shape.layout.stages, cost, slowness);
  const double gain =
      1 - job_cost(better, cost, slowness).together / job_cost(shape.partition, cost, slowness).together;
  if (gain < 0.01) return;
  std::printf(
      "by these times --layer-partition %s would make the job %.0f %% shorter, where every stage has "
      "processors of its own\n",
      flag_text(better).c_str(), 100 * gain);
}

std::vector<proto::StageReport> reports_of_all(World& world, const proto::StageReport& mine) {
  std::vector<proto::StageReport> reports;
  for (const std::string& text : agree(world, [&mine] { return mine.SerializeAsString(); }))
    ensure(reports.emplace_back().ParseFromString(text), "a stage's report can be read");
  return reports;
}

/// Of the first GPU that the job uses, where there is one; else of all of rank 0's cores, while the other
/// ranks wait. Collective.
MachineBounds measured_bounds(World& world, const ReadyRank& ready) {
  const std::vector<DeviceKind>& devices = ready.shape.devices;
  const auto gpu = std::find(devices.begin(), devices.end(), DeviceKind::cuda);
  const auto who = static_cast<size_t>(gpu == devices.end() ? 0 : gpu - devices.begin());
  const std::vector<std::string> all = agree(world, [&]() -> std::string {
    if (world.rank() != static_cast<int>(who)) return {};
    MachineBounds bounds;
    if (gpu != devices.end()) {
      bounds = bench_cuda_bounds(*ready.device, *ready.ops);
    } else {
      const int threads = ready.facts[0].threads * (world.size() > 1 ? world.local_size() : 1);
      bounds = bench_bounds(std::min(threads, usable_cores()));
    }
    return std::to_string(ready.shape.dtype == DType::bf16 ? bounds.bf16_flops : bounds.f32_flops) + " " +
           std::to_string(bounds.read_bytes);
  });
  std::istringstream text(all[who]);
  MachineBounds bounds;
  text >> bounds.bf16_flops >> bounds.read_bytes;
  return bounds;
}

/// Both taken at their higher value: on a shared machine the speed changes between measurements.
MachineBounds higher(const MachineBounds& a, const MachineBounds& b) {
  return {std::max(a.bf16_flops, b.bf16_flops), 0, std::max(a.read_bytes, b.read_bytes)};
}

void bench_on_rank(World& world, const BenchFlags& flags) {
  ReadyRank ready = make_ready(world, flags.job);
  std::optional<TraceWriter> trace;
  agree(world, [&]() -> std::string {
    if (flags.input_len + flags.output_len > ready.shape.max_model_len)
      throw UsageError("--input-len and --output-len: expected at most " +
                       std::to_string(ready.shape.max_model_len) + " together, found " +
                       std::to_string(flags.input_len + flags.output_len));
    if (world.rank() == 0 && !flags.trace.empty())
      trace.emplace(flags.trace, describe(flags.job, ready), nanoseconds(Clock::now()));
    return {};
  });
  MachineBounds bounds = measured_bounds(world, ready);
  const std::vector<double> rates = edge_rates(world, *ready.device, ready.shape.layout, ready.edges);

  const Layout& layout = ready.shape.layout;
  const int stage_number = layout.stage_of(world.rank());
  std::optional<BenchPlans> plans;
  std::optional<PlanDesk> desk;
  std::optional<RemotePlans> remote;
  std::optional<TurnTaker> turns;
  if (world.rank() == 0) plans.emplace(flags, ready, flags.job.block_size);
  if (stage_number == 0)
    turns.emplace(world.rank() == 0 ? static_cast<PlanSource&>(desk.emplace(*plans, world, layout))
                                    : remote.emplace(world),
                  ready.shape.partition, ready.shape.cost, slowness_of_replica(ready, world.rank()));
  DecodeCounter stage(*ready.stage);
  Runner runner(stage, *ready.device, world, std::move(ready.edges), ready.shape.schedule,
                {stage_number, layout.first_rank(layout.replica_of(world.rank())),
                 ready.shape.max_num_batched_tokens, !flags.trace.empty()},
                turns ? &*turns : nullptr);
  const proto::StageReport report = runner.run();
  if (desk) desk->finish();
  const std::vector<proto::StageReport> reports = reports_of_all(world, report);
  const std::vector<std::string> counted = agree(world, [&stage] { return stage.text(); });
  bounds = higher(bounds, measured_bounds(world, ready));
  if (world.rank() > 0) return;
  std::printf(
      "%s, %s, %lld prompts of %lld tokens, %lld new tokens each, at most %lld at once, %d micro-batches "
      "in flight, %lld preemptions\n",
      layout_text(layout).c_str(), ready.numerics.c_str(), static_cast<long long>(flags.prompts),
      static_cast<long long>(flags.input_len), static_cast<long long>(flags.output_len),
      static_cast<long long>(ready.shape.max_num_seqs * layout.replicas), ready.shape.schedule.micro_batches,
      static_cast<long long>(plans->preemptions()));
  std::printf("%-22s %s %s, memory %s, measured in this run\n",
              any_gpu(ready.shape.devices) ? "one GPU's peak" : "multiply-add peak",
              name_of(ready.shape.dtype), rate_text(bounds.bf16_flops, "FLOP").c_str(),
              rate_text(bounds.read_bytes, "B").c_str());
  print_figures(flags, ready, *plans, mean_decode_step(ready.shape, counted), bounds);
  print_stages(ready, reports, rates);
  print_evener_cut(ready, flags.job.block_size, reports);
  if (!trace) return;
  for (const proto::StageReport& r : reports) trace->add(r, nanoseconds(Clock::now()));
  trace->finish();
}

}  // namespace

void add_bench_pipeline(CLI::App& bench, Command& chosen) {
  CLI::App* sub =
      bench.add_subcommand("pipeline", "A generation job on made-up prompts, alone or under mpirun");
  auto flags = std::make_shared<BenchFlags>();
  flags->job.load_format = "dummy";
  sub->add_option("--num-prompts", flags->prompts, "Requests")->check(at_least(1))->capture_default_str();
  sub->add_option("--input-len", flags->input_len, "Tokens a prompt")
      ->check(at_least(1))
      ->capture_default_str();
  sub->add_option("--output-len", flags->output_len, "New tokens a request; 1 measures prefill")
      ->check(at_least(1))
      ->capture_default_str();
  sub->add_option("--num-warmups", flags->warm_ups, "Runs of the whole job before the measured one")
      ->check(at_least(0))
      ->capture_default_str();
  sub->add_flag("--split-k", flags->job.any_sum_order,
                "On a GPU, products may add up in any order: what the same bits in any company cost");
  sub->add_option(
      "--trace", flags->trace,
      "Write what each stage does, micro-batch by micro-batch, for Perfetto and `penstock trace`; "
      "of the measured run and those before it");
  add_model_flags(*sub, flags->job);
  add_machine_flags(*sub, flags->job);
  sub->callback([flags, &chosen] {
    chosen = [flags] {
      return run_ranks(launched_by_mpi() ? 1 : ranks_by_flags(flags->job),
                       [flags](World& world, Stopping&) { bench_on_rank(world, *flags); });
    };
  });
}

}  // namespace penstock
