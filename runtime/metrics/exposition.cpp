#include "runtime/metrics/exposition.h"

#include <charconv>
#include <cmath>
#include <string_view>
#include <utility>

namespace penstock {
namespace {

using Labels = std::vector<std::pair<std::string_view, std::string>>;

std::string number(double value) {
  if (std::isnan(value)) return "NaN";
  if (std::isinf(value)) return value > 0 ? "+Inf" : "-Inf";
  char text[32];
  const auto end = std::to_chars(text, text + sizeof text, value).ptr;
  return {text, end};
}

std::string number(int64_t value) {
  return std::to_string(value);
}
std::string number(uint64_t value) {
  return std::to_string(value);
}

/// Writes families one after another: a family's samples must stand together.
class Writer {
 public:
  void family(std::string name, const char* type, const char* help) {
    name_ = std::move(name);
    text_ += "# HELP " + name_ + ' ' + help + "\n# TYPE " + name_ + ' ' + type + '\n';
  }

  template <class Number>
  void sample(const Labels& labels, Number value, std::string_view suffix = {}) {
    text_ += name_;
    text_ += suffix;
    if (!labels.empty()) {
      char before = '{';
      for (const auto& [label, text] : labels) {
        text_ += before;
        text_ += label;
        text_ += "=\"";
        append_escaped(text);
        text_ += '"';
        before = ',';
      }
      text_ += '}';
    }
    text_ += ' ' + number(value) + '\n';
  }

  template <class Number>
  void single(std::string name, const char* type, const char* help, const Labels& labels, Number value) {
    family(std::move(name), type, help);
    sample(labels, value);
  }

  void histogram(std::string name, const char* help, const Labels& labels, const Histogram& histogram) {
    family(std::move(name), "histogram", help);
    Labels with_bound = labels;
    with_bound.emplace_back("le", "");
    uint64_t below = 0;
    for (size_t b = 0; b < histogram.bounds().size(); ++b) {
      below += histogram.counts()[b];
      // Prometheus's own clients write whole bounds with a point.
      std::string bound = number(histogram.bounds()[b]);
      if (bound.find_first_of(".e") == std::string::npos) bound += ".0";
      with_bound.back().second = bound;
      sample(with_bound, below, "_bucket");
    }
    with_bound.back().second = "+Inf";
    sample(with_bound, histogram.count(), "_bucket");
    sample(labels, histogram.sum(), "_sum");
    sample(labels, histogram.count(), "_count");
  }

  std::string take() { return std::move(text_); }

 private:
  void append_escaped(std::string_view text) {
    for (const char c : text) {
      if (c == '\n') {
        text_ += "\\n";
        continue;
      }
      if (c == '"' || c == '\\') text_ += '\\';
      text_ += c;
    }
  }

  std::string text_;
  std::string name_;
};

void write_like_vllm(Writer& out, const std::string& prefix, const JobSnapshot& s) {
  const Labels labels{{"model_name", s.job.model_name}, {"engine", "0"}};
  out.single(prefix + "num_requests_running", "gauge", "Requests in the micro-batches.", labels,
             s.figures.running);
  out.single(prefix + "num_requests_waiting", "gauge", "Requests that wait in the scheduler.", labels,
             s.figures.waiting);
  out.single(prefix + "kv_cache_usage_perc", "gauge", "Share of the KV blocks in use; 1 is all.", labels,
             s.figures.kv_used_share);
  out.single(prefix + "prompt_tokens_total", "counter", "Prompt tokens run.", labels,
             s.figures.prompt_tokens);
  out.single(prefix + "generation_tokens_total", "counter", "Tokens generated.", labels,
             s.figures.generated_tokens);
  out.family(prefix + "request_success_total", "counter", "Finished requests, by reason.");
  for (const auto& [reason, count] : s.requests.finished) {
    Labels by_reason = labels;
    by_reason.emplace_back("finished_reason", reason);
    out.sample(by_reason, count);
  }
  out.single(prefix + "num_preemptions_total", "counter", "Requests that lost their KV blocks for a while.",
             labels, s.figures.preemptions);
  out.single(prefix + "prefix_cache_queries_total", "counter", "Prompt tokens looked up in a prefix cache.",
             labels, int64_t{0});
  out.single(prefix + "prefix_cache_hits_total", "counter", "Prompt tokens found in a prefix cache.", labels,
             int64_t{0});
  for (size_t h = 0; h < kRequestHistograms; ++h) {
    const RequestHistogramName& name = request_histogram_names()[h];
    out.histogram(prefix + name.name, name.help, labels, s.requests.histograms[h]);
  }
  Labels cache = labels;
  cache.emplace_back("block_size", std::to_string(s.job.block_size));
  cache.emplace_back("num_gpu_blocks", std::to_string(s.job.blocks));
  cache.emplace_back("cache_dtype", s.job.cache_dtype);
  out.single(prefix + "cache_config_info", "gauge", "The KV cache.", cache, int64_t{1});
}

/// `replica` only where there are several.
Labels labels_of(const JobDescription& job, size_t rank) {
  const StageLabels& stage = job.stages[rank];
  Labels labels{{"stage", std::to_string(job.stage_of(rank))},
                {"rank", std::to_string(stage.rank)},
                {"host", stage.host},
                {"device", stage.device}};
  if (job.replicas > 1) labels.emplace_back("replica", std::to_string(job.replica_of(rank)));
  return labels;
}

Labels with(Labels labels, std::string_view name, std::string value) {
  labels.emplace_back(name, std::move(value));
  return labels;
}

/// One family with a sample for every stage that has reported.
template <class Write>
void by_stage(Writer& out, const JobSnapshot& s, const char* name, const char* type, const char* help,
              const Write& write) {
  out.family(std::string("penstock:") + name, type, help);
  for (size_t i = 0; i < s.stages.size(); ++i)
    if (s.stages[i].age_seconds) write(labels_of(s.job, i), s.stages[i], i);
}

void write_stages(Writer& out, const JobSnapshot& s) {
  using Stage = const StageSnapshot&;
  by_stage(out, s, "stage_busy_seconds_total", "counter", "Time in forwards, since the stage's first one.",
           [&](const Labels& l, Stage st, size_t) { out.sample(l, st.report.busy_seconds()); });
  by_stage(out, s, "stage_wait_seconds_total", "counter",
           "Time waiting for input, waiting for a plan, or sending.", [&](const Labels& l, Stage st, size_t) {
             out.sample(with(l, "for", "input"), st.report.wait_input_seconds());
             out.sample(with(l, "for", "plan"), st.report.wait_plan_seconds());
             out.sample(with(l, "for", "send"), st.report.send_seconds());
           });
  by_stage(out, s, "stage_microbatches_total", "counter", "Micro-batches run.",
           [&](const Labels& l, Stage st, size_t) { out.sample(l, st.report.micro_batches()); });
  by_stage(out, s, "stage_tokens_total", "counter", "Tokens run, prompt tokens included.",
           [&](const Labels& l, Stage st, size_t) { out.sample(l, st.report.tokens()); });
  by_stage(out, s, "stage_out_of_memory_total", "counter", "Forwards cut in two because memory ran out.",
           [&](const Labels& l, Stage st, size_t) { out.sample(l, st.report.out_of_memory()); });
  by_stage(out, s, "stage_nonfinite_tokens_total", "counter",
           "Tokens drawn from logits that were not all numbers.",
           [&](const Labels& l, Stage st, size_t) { out.sample(l, st.report.nonfinite_tokens()); });
  by_stage(out, s, "stage_kv_error_ratio", "gauge",
           "Rounding error of the KV cache, relative to what it keeps, where it keeps one byte a value.",
           [&](const Labels& l, Stage st, size_t) {
             if (st.report.has_kv_error()) out.sample(l, st.report.kv_error());
           });
  by_stage(out, s, "stage_report_age_seconds", "gauge", "Age of the stage's newest report.",
           [&](const Labels& l, Stage st, size_t) { out.sample(l, *st.age_seconds); });
  if (s.job.stages_each() > 1) {
    by_stage(out, s, "edge_bytes_total", "counter", "Hidden states sent to the next stage.",
             [&](const Labels& l, Stage st, size_t i) {
               if (s.job.has_edge_from(i)) out.sample(l, st.report.edge_bytes());
             });
    by_stage(out, s, "edge_send_seconds_total", "counter",
             "Time the stage spent starting to send, or waiting for a buffer that is still being sent.",
             [&](const Labels& l, Stage st, size_t i) {
               if (s.job.has_edge_from(i)) out.sample(l, st.report.send_seconds());
             });
  }
  by_stage(out, s, "memory_bytes", "gauge", "Memory by what it is for.",
           [&](const Labels& l, Stage st, size_t) {
             const proto::StageReport& r = st.report;
             const uint64_t known = r.weight_bytes() + r.kv_bytes();
             const uint64_t used = r.memory_used_bytes();
             out.sample(with(l, "kind", "weights"), r.weight_bytes());
             out.sample(with(l, "kind", "kv"), r.kv_bytes());
             out.sample(with(l, "kind", "workspace"), used > known ? used - known : 0);
             out.sample(with(l, "kind", "free"), r.memory_free_bytes());
           });
  by_stage(out, s, "device_memory_bytes", "gauge", "Memory of the stage's device by its state.",
           [&](const Labels& l, Stage st, size_t) {
             out.sample(with(l, "state", "total"), st.report.memory_total_bytes());
             out.sample(with(l, "state", "used"), st.report.memory_used_bytes());
             out.sample(with(l, "state", "reserved"), st.report.memory_reserved_bytes());
             out.sample(with(l, "state", "fragmented"), st.report.memory_fragmented_bytes());
             out.sample(with(l, "state", "planned"), st.report.memory_planned_bytes());
           });
  by_stage(out, s, "device_utilization_ratio", "gauge", "Share of time the device computes, where NVML says.",
           [&](const Labels& l, Stage st, size_t) {
             if (st.report.has_device_utilization()) out.sample(l, st.report.device_utilization());
           });
}

void write_job(Writer& out, const JobSnapshot& s) {
  out.single("penstock:job_seconds", "gauge", "Since the job began.", {}, s.figures.seconds);
  out.single("penstock:rows_done_total", "counter", "Rows that this job finished, failed ones included.", {},
             s.figures.rows_done - s.figures.rows_resumed);
  if (s.figures.seconds > 0)
    out.single("penstock:rows_resumed", "gauge", "Rows that earlier jobs finished.", {},
               s.figures.rows_resumed);
  out.family("penstock:rows_failed_total", "counter",
             "Rows that this job finished with an error, by the field at fault.");
  for (const auto& [reason, count] : s.requests.failed) out.sample({{"reason", reason}}, count);
  if (s.figures.rows_expected)
    out.single("penstock:rows_expected", "gauge", "Rows in the input; an estimate until it has been read.",
               {}, *s.figures.rows_expected);
  if (s.figures.eta_seconds)
    out.single("penstock:eta_seconds", "gauge", "Until the job is done, at the mean speed so far.", {},
               *s.figures.eta_seconds);
  out.histogram("penstock:journal_commit_seconds", "A group commit of the journal, write and sync.", {},
                s.journal_commits);
}

void write_guard(Writer& out, const GuardFigures& guard) {
  out.family("penstock:guard_broken", "gauge", "1 while a goal of --guard is broken for long.");
  for (const GuardGoalFigures& g : guard.goals) out.sample({{"goal", g.name}}, int64_t{g.broken ? 1 : 0});
  out.family("penstock:guard_value", "gauge", "What a goal of --guard measures.");
  for (const GuardGoalFigures& g : guard.goals)
    if (g.value) out.sample({{"goal", g.name}}, *g.value);
  out.family("penstock:guard_steps_total", "counter", "Steps back for a goal of --guard.");
  for (const GuardGoalFigures& g : guard.goals) out.sample({{"goal", g.name}}, g.steps);
  out.family("penstock:guard_setting", "gauge", "Settings after the steps back.");
  out.sample({{"name", "max_num_seqs"}}, guard.settings.max_num_seqs);
  out.sample({{"name", "max_num_batched_tokens"}}, guard.settings.max_num_batched_tokens);
  out.sample({{"name", "kv_blocks"}}, guard.settings.kv_blocks);
}

}  // namespace

std::string prometheus_text(const JobSnapshot& snapshot, const std::vector<std::string>& aliases) {
  Writer out;
  write_like_vllm(out, "penstock:", snapshot);
  for (const std::string& alias : aliases) write_like_vllm(out, alias, snapshot);
  write_job(out, snapshot);
  write_stages(out, snapshot);
  if (snapshot.guard) write_guard(out, *snapshot.guard);
  return out.take();
}

}  // namespace penstock
