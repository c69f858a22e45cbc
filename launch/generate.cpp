// `penstock generate`: a batch file of requests in, a file of answers out.
#include <CLI/CLI.hpp>

#include "launch/agree.h"
#include "launch/commands.h"
#include "launch/job_description.h"
#include "launch/job_journal.h"
#include "launch/job_plans.h"
#include "launch/preflight.h"
#include "launch/progress.h"
#include "launch/rank_job.h"
#include "launch/run_ranks.h"
#include "launch/stage_reporter.h"
#include "launch/stage_speed.h"
#include "launch/watch.h"
#include "runtime/base/log.h"
#include "runtime/model/config.h"
#include "runtime/pipeline/runner.h"
#include "runtime/requests/text/tokenizer.h"

namespace penstock {
namespace {

std::shared_ptr<const Tokenizer> load_tokenizer(const JobOptions& options) {
  if (options.skip_tokenizer_init) return nullptr;
  if (!options.tokenizer.empty()) return Tokenizer::load(options.tokenizer);
  return std::filesystem::exists(options.model / "tokenizer.json") ? Tokenizer::load(options.model) : nullptr;
}

/// Null where the model has no template, or no tokenizer.
std::shared_ptr<const ChatRenderer> load_chat(const JobOptions& options) {
  if (options.skip_tokenizer_init) return nullptr;
  return ChatRenderer::load(options.tokenizer.empty() ? options.model : options.tokenizer,
                            options.chat_template);
}

BatchJobOptions batch_options(const JobOptions& options, const ReadyRank& ready,
                              std::shared_ptr<const ChatRenderer> chat) {
  BatchJobOptions batch;
  batch.input = {options.input, parse_shard(options.shard), options.input_dataset, options.input_body};
  batch.intake.request.served_model_name = options.served_model_name;
  batch.scheduler = {ready.shape.max_num_seqs, ready.shape.max_num_batched_tokens, options.block_size,
                     ready.blocks, ready.shape.schedule.micro_batches};
  batch.replicas = ready.shape.layout.replicas;
  batch.intake.request.defaults = load_generation_defaults(options.generation_config, options.model);
  batch.intake.chat = std::move(chat);
  batch.intake.splits_reasoning = !options.reasoning_parser.empty();
  batch.intake.max_model_len = ready.shape.max_model_len;
  batch.intake.vocab_size = ready.shape.config.vocab_size;
  batch.eos_token_ids = ready.shape.config.eos_token_ids;
  batch.seed = options.seed;
  batch.model_name = model_name(options);
  batch.keep_numbers = is_hdf5(options.output);
  return batch;
}

std::vector<proto::StageReport> gather_reports(World& world, proto::StageReport mine) {
  std::vector<proto::StageReport> reports(static_cast<size_t>(world.size()));
  reports[0] = std::move(mine);
  for (int missing = world.size() - 1; missing > 0; --missing) {
    const ControlMessage message = world.control().receive(Line::reports);
    if (message.from < 1 || message.from >= world.size() ||
        !reports[static_cast<size_t>(message.from)].ParseFromString(message.payload))
      throw Error("rank " + std::to_string(message.from) + " sent no report that can be read");
  }
  return reports;
}

/// Plays the stage's program; what breaks is told with the action during which it broke, and to the world
/// before anything is taken apart: what an edge that ends still delivers, nobody may take in.
proto::StageReport play(World& world, Runner& runner) {
  try {
    return runner.run();
  } catch (const WorldAborted&) {
    throw;
  } catch (const Error& e) {
    const Error told(std::string(e.what()) + " (during " + runner.current_action() + ")", e.status(),
                     e.where());
    world.abort(told.what(), told.status());
    throw told;
  }
}

/// When the job shall have ended, counted from `begin`.
StopLimits stop_limits(const JobOptions& options, Stopping::Clock::time_point begin) {
  StopLimits limits{std::chrono::duration<double>(options.drain_seconds), {}};
  if (options.max_seconds > 0)
    limits.end = begin + std::chrono::duration_cast<Stopping::Clock::duration>(
                             std::chrono::duration<double>(options.max_seconds));
  return limits;
}

std::string told_end(const JobProgress& end, const std::string& reason) {
  return "stopped by " + reason + ": " + std::to_string(end.rows_done) + " rows are finished, " +
         std::to_string(end.rows_cut) +
         " more are saved as far as they got; the same command goes on from there";
}

/// The part of every rank but the first: its stage's program, and its reports.
void play_for_rank_0(World& world, ReadyRank& ready, const JobOptions& options,
                     const RunnerOptions& runner_options) {
  std::optional<RemotePlans> plans;
  std::optional<TurnTaker> turns;
  if (runner_options.stage == 0)
    turns.emplace(plans.emplace(world), ready.shape.partition, ready.shape.cost,
                  slowness_of_replica(ready, world.rank()));
  Runner runner(*ready.stage, *ready.device, world, std::move(ready.edges), ready.shape.schedule,
                runner_options, turns ? &*turns : nullptr);
  std::optional<StageReporter> reporter;
  reporter.emplace(world, runner.meter(), ready, options.watch.interval_seconds);
  const proto::StageReport played = play(world, runner);
  reporter.reset();
  const proto::StageReport report = complete_report(played, ready);
  world.control().send(0, ControlKind::stage_report, report.SerializeAsString());
  const std::string stopped = agree(world, [] { return std::string(); })[0];
  if (!stopped.empty()) throw JobStopped(stopped);
}

void tell_ready(const ReadyRank& ready, const JobOptions& options) {
  const JobShape& shape = ready.shape;
  for (const std::string& note : shape.config.notes) log::info("model: " + note);
  log::info("ready: " + layout_text(shape.layout) + ", " + shape.config.architecture + " in " +
            ready.numerics + ", " + std::to_string(ready.blocks) + " KV blocks of " +
            std::to_string(options.block_size) + " tokens" + (shape.layout.replicas > 1 ? " each" : "") +
            ", up to " + std::to_string(shape.max_num_seqs * shape.layout.replicas) + " sequences at once");
  for (size_t r = 0; r < ready.facts.size(); ++r) {
    const StageFacts& facts = ready.facts[r];
    log::info(stage_name(shape.layout, static_cast<int>(r)) + " on " + facts.host + ": " + facts.part + ", " +
              facts.device + ", " + std::to_string(facts.threads) +
              (facts.threads == 1 ? " thread" : " threads"));
  }
}

void generate(World& world, Stopping& stopping, const JobOptions& options,
              Stopping::Clock::time_point begin) {
  std::shared_ptr<const Tokenizer> tokenizer;
  std::shared_ptr<const ChatRenderer> chat;
  std::optional<JobMetrics> metrics;  // outlives the journal, which tells it of every commit
  JobJournal journal;
  const std::vector<std::string> early = agree(world, [&]() -> std::string {  // cheap mistakes first
    if (world.rank() > 0) return {};
    load_model_config(options.model);  // a wrong folder is called that
    tokenizer = load_tokenizer(options);
    chat = load_chat(options);
    journal = open_journal(options);
    return journal.output_stands ? "stands" : "";
  });
  if (!early[0].empty()) {
    if (world.rank() == 0)
      log::info(options.output.string() +
                " holds the answers of this very job already: nothing is left to do "
                "(--resume=never computes them again)");
    return;
  }
  ReadyRank ready = make_ready(world, options);
  std::unique_ptr<BatchJob> job;
  std::unique_ptr<Guarding> guard;
  std::optional<Watch> watch;
  agree(world, [&]() -> std::string {
    if (world.rank() > 0) return {};
    const JobDescription description = describe(options, ready);
    metrics.emplace(description);
    guard = make_guard(options, ready, *metrics);
    watch.emplace(world, options.watch, description, *metrics);
    if (guard) watch->set_guard(*guard);
    BatchJobOptions batch = batch_options(options, ready, chat);
    if (options.watch.interval_seconds > 0) batch.metrics = &metrics->requests();
    begin_journal(
        journal, ready.shape.max_model_len, ready.numerics,
        [&metrics](std::chrono::duration<double> took) { metrics->journal_committed(took.count()); });
    job = std::make_unique<BatchJob>(
        std::move(batch), tokenizer,
        journal.journal ? make_journal_sink(*journal.journal) : make_direct_sink(options.output));
    return {};
  });
  const Layout& layout = ready.shape.layout;
  const RunnerOptions runner_options{layout.stage_of(world.rank()),
                                     layout.first_rank(layout.replica_of(world.rank())),
                                     ready.shape.max_num_batched_tokens, !options.watch.trace.empty()};
  if (world.rank() > 0) return play_for_rank_0(world, ready, options, runner_options);
  tell_ready(ready, options);
  JobPlans plans(*job, options.watch.interval_seconds > 0 ? &metrics->requests() : nullptr, guard.get(),
                 world, layout);
  TurnTaker turns(plans.desk(), ready.shape.partition, ready.shape.cost, slowness_of_replica(ready, 0));
  Runner runner(*ready.stage, *ready.device, world, std::move(ready.edges), ready.shape.schedule,
                runner_options, &turns);
  proto::StageReport report;
  bool complete = false;
  if (const JobProgress start = job->progress(); start.rows_resumed > 0)
    log::info(std::to_string(start.rows_resumed) + " rows were finished before and are not computed again");
  {
    stopping.attach(*job, stop_limits(options, begin));
    watch->start(*job);
    const Progress progress([&watch] { return watch->figures(); }, options.progress_seconds);
    const StageReporter reporter(world, runner.meter(), ready, options.watch.interval_seconds,
                                 [&watch](proto::StageReport live) { watch->hear(std::move(live)); });
    report = play(world, runner);
    plans.desk().finish();
    complete = job->finish();
    stopping.detach();
  }
  const std::vector<proto::StageReport> reports = gather_reports(world, complete_report(report, ready));
  const JobProgress end = job->progress();
  watch->finish(end, reports);
  const std::string stopped =
      agree(world, [&] { return complete ? std::string() : told_end(end, stopping.reason()); })[0];
  if (!stopped.empty()) throw JobStopped(stopped);
  log::info(closing_summary(end, reports, ready, options.output.string()));
  stopping.linger(watch->linger_time());
}

}  // namespace

void add_generate(CLI::App& app, Command& chosen) {
  CLI::App* sub = app.add_subcommand("generate", "Answer every row of a batch file");
  auto options = std::make_shared<JobOptions>();
  add_batch_flags(*sub, *options);
  add_model_flags(*sub, *options);
  add_machine_flags(*sub, *options);
  add_watch_flags(*sub, options->watch);
  sub->callback([options, &chosen] {
    chosen = [options] {
      apply_log_options(options->watch);
      const bool launched = launched_by_mpi();
      const auto begin = Stopping::Clock::now();
      return run_ranks(launched ? 1 : ranks_by_flags(*options),
                       [options, begin](World& world, Stopping& stopping) {
                         if (options->preflight)
                           preflight(world, *options);
                         else
                           generate(world, stopping, *options, begin);
                       });
    };
  });
}

}  // namespace penstock
