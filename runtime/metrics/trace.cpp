#include "runtime/metrics/trace.h"

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <fstream>
#include <nlohmann/json.hpp>

#include "runtime/base/error.h"

namespace penstock {
namespace {

using Json = nlohmann::ordered_json;

constexpr int kMostStages = 4096;
constexpr std::array<const char*, proto::Activity_ARRAYSIZE> kCategories{"other", "busy", "wait_input",
                                                                         "wait_plan", "send"};

std::string text_of(const Json& json) {
  return json.dump(-1, ' ', false, Json::error_handler_t::replace);
}

std::string name_of(const proto::StageEvent& event, uint32_t stage, uint64_t slot) {
  switch (event.activity()) {
    case proto::ACTIVITY_BUSY:
      return std::to_string(stage) + "F" + std::to_string(slot);
    case proto::ACTIVITY_WAIT_INPUT:
      return "wait for input";
    case proto::ACTIVITY_WAIT_PLAN:
      return "wait for a plan";
    case proto::ACTIVITY_SEND:
      return "send";
    default:
      return "other";
  }
}

}  // namespace

uint64_t nanoseconds(std::chrono::steady_clock::time_point when) {
  return static_cast<uint64_t>(std::chrono::nanoseconds(when.time_since_epoch()).count());
}

TraceWriter::TraceWriter(const std::filesystem::path& file, const JobDescription& job, uint64_t begin_ns)
    : micro_batches_(std::max(1, job.micro_batches)),
      stages_(job.stages.size()),
      file_(std::fopen(file.c_str(), "wbe"), std::fclose),
      path_(file.string()),
      begin_ns_(begin_ns) {
  if (file_ == nullptr)
    throw UsageError("--trace " + path_ +
                     ": expected a file that can be written, found: " + std::strerror(errno));
  write("[");
  Json args{{"model", job.model_name},
            {"stages", job.stages.size()},
            {"micro_batches", micro_batches_},
            {"processors", job.processors}};
  if (job.replicas > 1) args["replicas"] = job.replicas;
  write(text_of({{"name", "penstock"}, {"ph", "M"}, {"pid", 0}, {"args", args}}));
  for (size_t s = 0; s < job.stages.size(); ++s) {
    const StageLabels& labels = job.stages[s];
    stages_[s].here = labels.host == job.stages.front().host;
    stages_[s].number = static_cast<uint32_t>(job.stage_of(s));
    const std::string replica =
        job.replicas > 1 ? "replica " + std::to_string(job.replica_of(s)) + ", " : std::string();
    const std::string name = replica + "stage " + std::to_string(stages_[s].number) + ": " + labels.part +
                             " (rank " + std::to_string(labels.rank) + ", " + labels.host + ", " +
                             labels.device + ")";
    write(text_of({{"name", "process_name"}, {"ph", "M"}, {"pid", s}, {"args", {{"name", name}}}}));
    write(text_of({{"name", "process_sort_index"}, {"ph", "M"}, {"pid", s}, {"args", {{"sort_index", s}}}}));
  }
}

TraceWriter::~TraceWriter() = default;

void TraceWriter::write(const std::string& line) {
  // "[" stands alone; every further line but the first begins with what ends the one before it.
  const std::string_view before = line == "[" ? "" : first_line_ ? "\n" : ",\n";
  if (line != "[") first_line_ = false;
  if (std::fwrite(before.data(), 1, before.size(), file_.get()) != before.size() ||
      std::fwrite(line.data(), 1, line.size(), file_.get()) != line.size())
    throw Error("--trace " + path_ + ": cannot be written: " + std::strerror(errno));
}

void TraceWriter::add(const proto::StageReport& report, uint64_t received_ns) {
  if (report.rank() >= stages_.size()) return;
  Stage& stage = stages_[report.rank()];
  const auto ahead = static_cast<int64_t>(received_ns) - static_cast<int64_t>(report.made_ns());
  if (!stage.here && (!stage.known || ahead < stage.ahead_ns)) stage.ahead_ns = ahead;
  stage.known = true;
  for (const proto::StageEvent& event : report.events()) {
    const auto here_ns = static_cast<int64_t>(event.begin_ns()) + stage.ahead_ns;
    const double begin_us = 1e-3 * static_cast<double>(here_ns - static_cast<int64_t>(begin_ns_));
    const double end_us = begin_us + 1e-3 * static_cast<double>(event.duration_ns());
    // A better estimate of the other clock must not make stretches overlap.
    const double from_us = std::max(begin_us, stage.written_us);
    stage.written_us = std::max(end_us, from_us);
    const uint64_t slot = event.step() % static_cast<uint64_t>(micro_batches_);
    const int activity = proto::Activity_IsValid(event.activity()) ? event.activity() : 0;
    char line[256];
    std::snprintf(line, sizeof line,
                  R"({"name":"%s","cat":"%s","ph":"X","ts":%.3f,"dur":%.3f,"pid":%u,"tid":0,)"
                  R"("args":{"step":%llu,"slot":%llu,"tokens":%u}})",
                  name_of(event, stage.number, slot).c_str(), kCategories[static_cast<size_t>(activity)],
                  from_us, stage.written_us - from_us, report.rank(),
                  static_cast<unsigned long long>(event.step()), static_cast<unsigned long long>(slot),
                  event.tokens());
    write(line);
  }
  if (std::fflush(file_.get()) != 0)  // a killed job leaves all but its last second
    throw Error("--trace " + path_ + ": cannot be written: " + std::strerror(errno));
}

void TraceWriter::finish() {
  if (std::fputs("\n]\n", file_.get()) < 0 || std::fclose(file_.release()) != 0)
    throw Error("--trace " + path_ + ": cannot be written: " + std::strerror(errno));
}

// ---- reading ----

namespace {

[[noreturn]] void refuse(const std::filesystem::path& file, size_t line, const std::string& what) {
  throw UsageError(file.string() + ", line " + std::to_string(line) +
                   ": expected a trace that `penstock generate --trace` wrote, found " + what);
}

void take(const Json& event, Trace& trace) {
  const std::string kind = event.at("ph");
  const std::string name = event.at("name");
  if (kind == "M" && name == "penstock") {
    const Json& args = event.at("args");
    trace.model = args.at("model");
    trace.micro_batches = std::clamp<int>(args.at("micro_batches"), 1, kMostStages);
    trace.processors = std::clamp<int>(args.at("processors"), 0, kMostStages);
    trace.stages.resize(static_cast<size_t>(std::clamp<int>(args.at("stages"), 1, kMostStages)));
    trace.replicas = args.value("replicas", 1);
    if (trace.replicas < 1 || trace.stages.size() % static_cast<size_t>(trace.replicas) != 0)
      throw UsageError(std::to_string(trace.replicas) + " replicas of " +
                       std::to_string(trace.stages.size()) + " stages altogether");
    return;
  }
  if (kind != "M" && kind != "X") return;
  StageTrace& stage = trace.stages.at(event.at("pid").get<size_t>());
  if (name == "process_name") stage.name = event.at("args").at("name");
  if (kind == "M") return;
  const std::string category = event.at("cat");
  const auto found = std::find(kCategories.begin(), kCategories.end(), category);
  if (found == kCategories.end()) return;
  const double begin = 1e-6 * event.at("ts").get<double>();
  const Json& args = event.at("args");
  stage.events.push_back({static_cast<proto::Activity>(found - kCategories.begin()),
                          args.at("step").get<uint64_t>(), begin,
                          begin + 1e-6 * event.at("dur").get<double>(), args.at("tokens").get<int64_t>()});
}

}  // namespace

Trace read_trace(const std::filesystem::path& file) {
  std::ifstream in(file, std::ios::binary);
  if (!in) throw UsageError(file.string() + ": expected a trace, found: " + std::strerror(errno));
  Trace trace;
  std::string line;
  for (size_t number = 1; std::getline(in, line); ++number) {
    const bool last = in.eof();  // without a newline: perhaps cut off
    if (number == 1 && line != "[") refuse(file, number, "'" + line.substr(0, 40) + "'");
    if (number == 1 || line.empty() || line == "]") continue;
    if (line.back() == ',') line.pop_back();
    const Json event = Json::parse(line, nullptr, false);
    if (event.is_discarded()) {
      if (last) break;
      refuse(file, number, "a line that is no JSON");
    }
    try {
      take(event, trace);
    } catch (const std::exception& e) {
      refuse(file, number, e.what());
    }
  }
  if (trace.stages.empty()) refuse(file, 1, "no stages");
  return trace;
}

std::vector<TimeByCause> time_by_cause(const Trace& trace) {
  struct Ends {
    double begin = 0, end = 0;
    bool any = false;
  };
  const auto widen = [](Ends& ends, double begin, double end) {
    ends.begin = ends.any ? std::min(ends.begin, begin) : begin;
    ends.end = ends.any ? std::max(ends.end, end) : end;
    ends.any = true;
  };
  Ends job;
  std::vector<Ends> forwards(trace.stages.size());
  for (size_t s = 0; s < trace.stages.size(); ++s)
    for (const TraceEvent& e : trace.stages[s].events)
      if (e.activity == proto::ACTIVITY_BUSY) {
        widen(job, e.begin, e.end);
        widen(forwards[s], e.begin, e.end);
      }
  std::vector<TimeByCause> times(trace.stages.size());
  for (size_t s = 0; s < trace.stages.size(); ++s) {
    TimeByCause& t = times[s];
    const Ends& own = forwards[s];
    if (!own.any) continue;
    for (const TraceEvent& e : trace.stages[s].events) {
      const double seconds = std::min(e.end, own.end) - std::max(e.begin, own.begin);
      if (seconds < 0) continue;
      switch (e.activity) {
        case proto::ACTIVITY_BUSY:
          t.busy += seconds;
          t.longest_forward = std::max(t.longest_forward, seconds);
          t.tokens += e.tokens;
          ++t.forwards;
          break;
        case proto::ACTIVITY_WAIT_INPUT:
          t.wait_input += seconds;
          break;
        case proto::ACTIVITY_WAIT_PLAN:
          t.wait_plan += seconds;
          break;
        case proto::ACTIVITY_SEND:
          t.send += seconds;
          break;
        default:
          break;
      }
    }
    t.fill = own.begin - job.begin;
    t.drain = job.end - own.end;
    t.other = std::max(0.0, own.end - own.begin - t.busy - t.wait_input - t.wait_plan - t.send);
    t.mean_forward = t.busy / static_cast<double>(std::max<int64_t>(1, t.forwards));
  }
  return times;
}

}  // namespace penstock
