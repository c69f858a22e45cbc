#include <nlohmann/json.hpp>

#include "runtime/metrics/page.h"

namespace penstock {
namespace {

using Json = nlohmann::ordered_json;

template <class T>
Json or_null(const std::optional<T>& value) {
  return value ? Json(*value) : Json(nullptr);
}

const char* activity_text(proto::Activity activity) {
  switch (activity) {
    case proto::ACTIVITY_BUSY:
      return "computing";
    case proto::ACTIVITY_WAIT_INPUT:
      return "waiting for input";
    case proto::ACTIVITY_WAIT_PLAN:
      return "waiting for a plan";
    case proto::ACTIVITY_SEND:
      return "sending";
    default:
      return "planning";
  }
}

Json stage_json(const JobDescription& job, size_t rank, const StageSnapshot& stage) {
  const StageLabels& labels = job.stages[rank];
  const proto::StageReport& r = stage.report;
  return {{"replica", job.replica_of(rank)},
          {"stage", job.stage_of(rank)},
          {"rank", labels.rank},
          {"host", labels.host},
          {"device", labels.device},
          {"part", labels.part},
          {"age", or_null(stage.age_seconds)},
          {"activity", activity_text(r.activity())},
          {"activity_seconds", r.activity_seconds()},
          {"recent",
           {{"busy", stage.recent.busy},
            {"wait_input", stage.recent.wait_input},
            {"wait_plan", stage.recent.wait_plan},
            {"send", stage.recent.send}}},
          {"seconds",
           {{"busy", r.busy_seconds()},
            {"wait_input", r.wait_input_seconds()},
            {"wait_plan", r.wait_plan_seconds()},
            {"send", r.send_seconds()}}},
          {"micro_batches", r.micro_batches()},
          {"tokens", r.tokens()},
          {"sent_bytes", r.edge_bytes()},
          {"sent_per_second", stage.sent_bytes_per_second},
          {"memory",
           {{"weights", r.weight_bytes()},
            {"kv", r.kv_bytes()},
            {"used", r.memory_used_bytes()},
            {"total", r.memory_total_bytes()}}},
          {"utilization", r.has_device_utilization() ? Json(r.device_utilization()) : Json(nullptr)},
          {"out_of_memory", r.out_of_memory()},
          {"nonfinite_tokens", r.nonfinite_tokens()},
          {"kv_error", r.has_kv_error() ? Json(r.kv_error()) : Json(nullptr)}};
}

Json percentiles(const Histogram& h) {
  return {h.quantile(0.5), h.quantile(0.9), h.quantile(0.99)};
}

Json rows_json(const std::vector<RowSample>& rows) {
  Json list = Json::array();
  for (const RowSample& row : rows)
    list.push_back({{"custom_id", row.custom_id}, {"text", row.text}, {"reason", row.reason}});
  return list;
}

Json guard_json(const GuardFigures& guard) {
  Json goals = Json::array();
  for (const GuardGoalFigures& g : guard.goals)
    goals.push_back({{"name", g.name},
                     {"limit", g.limit},
                     {"value", or_null(g.value)},
                     {"broken", g.broken},
                     {"broken_seconds", g.broken_seconds},
                     {"steps", g.steps}});
  return {{"goals", std::move(goals)}, {"settings", guard.settings.text()}, {"steps", guard.steps}};
}

}  // namespace

std::string page_state(const JobSnapshot& s) {
  Json stages = Json::array();
  for (size_t i = 0; i < s.stages.size(); ++i) stages.push_back(stage_json(s.job, i, s.stages[i]));
  Json history = Json::array();
  for (const HistoryPoint& p : s.history)
    history.push_back({p.seconds, p.rows_per_second, p.prompt_per_second, p.generated_per_second});
  using H = RequestHistogram;
  const Json state{
      {"model", s.job.model_name},
      {"numerics", s.job.numerics},
      {"replicas", s.job.replicas},
      {"micro_batches", s.job.micro_batches},
      {"over", s.over},
      {"seconds", s.figures.seconds},
      {"rows",
       {{"done", s.figures.rows_done},
        {"failed", s.figures.rows_failed},
        {"before", s.figures.rows_resumed},
        {"expected", or_null(s.figures.rows_expected)}}},
      {"eta", or_null(s.figures.eta_seconds)},
      {"prompt_tokens", s.figures.prompt_tokens},
      {"generated_tokens", s.figures.generated_tokens},
      {"running", s.figures.running},
      {"waiting", s.figures.waiting},
      {"preemptions", s.figures.preemptions},
      {"kv", s.figures.kv_used_share},
      {"rates",
       {{"rows", s.recent.rows_per_second},
        {"prompt", s.recent.prompt_per_second},
        {"generated", s.recent.generated_per_second}}},
      {"stages", std::move(stages)},
      {"latency",
       {{"time_to_first_token", percentiles(s.requests.of(H::time_to_first_token))},
        {"inter_token", percentiles(s.requests.of(H::inter_token_latency))},
        {"time_per_output_token", percentiles(s.requests.of(H::time_per_output_token))},
        {"e2e", percentiles(s.requests.of(H::e2e_latency))},
        {"queue", percentiles(s.requests.of(H::queue_time))},
        {"journal", percentiles(s.journal_commits)}}},
      {"history", std::move(history)},
      {"errors", rows_json(s.requests.errors)},
      {"samples", rows_json(s.requests.samples)},
      {"guard", s.guard ? guard_json(*s.guard) : Json(nullptr)},
  };
  return state.dump(-1, ' ', false, Json::error_handler_t::replace);
}

}  // namespace penstock
