// What every stage did, micro-batch by micro-batch, as a file in the Chrome trace format (the JSON array, one
// event a line): Perfetto and chrome://tracing open it, and so do they when a killed job left it without its
// end. Grammar: docs/formats.md.
#pragma once

#include <chrono>
#include <cstdint>
#include <cstdio>
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "proto/plan.pb.h"
#include "runtime/metrics/job_metrics.h"

namespace penstock {

/// As TraceWriter takes a moment.
uint64_t nanoseconds(std::chrono::steady_clock::time_point when);

/// Written by rank 0 from the stages' reports. One thread.
class TraceWriter {
 public:
  /// `begin_ns`: the moment 0 of the file, by this host's steady clock. Throws UsageError when the file
  /// cannot be made.
  TraceWriter(const std::filesystem::path& file, const JobDescription& job, uint64_t begin_ns);
  /// Without finish() the file stays without its end.
  ~TraceWriter();
  TraceWriter(const TraceWriter&) = delete;
  TraceWriter& operator=(const TraceWriter&) = delete;

  /// A stage's stretches since its last report. `received_ns` is this host's steady clock: another host's is
  /// compared with it by the quickest report so far. Throws Error when the file cannot be written.
  void add(const proto::StageReport& report, uint64_t received_ns);
  /// Ends the file.
  void finish();

 private:
  struct Stage {
    uint32_t number = 0;  // within its replica
    bool here = false;    // on this host: one clock
    bool known = false;
    int64_t ahead_ns = 0;  // of this host's clock; never later than the quickest report
    double written_us = 0;
  };
  void write(const std::string& line);

  const int micro_batches_;
  std::vector<Stage> stages_;  // by rank
  std::unique_ptr<std::FILE, int (*)(std::FILE*)> file_;
  std::string path_;
  const uint64_t begin_ns_;
  bool first_line_ = true;
};

struct TraceEvent {
  proto::Activity activity = proto::ACTIVITY_OTHER;
  uint64_t step = 0;
  double begin = 0;  ///< seconds since the file's beginning
  double end = 0;
  int64_t tokens = 0;
};

struct StageTrace {
  std::string name;
  std::vector<TraceEvent> events;  ///< in order of time
};

struct Trace {
  std::string model;
  int micro_batches = 1;
  int processors = 0;  ///< stages of a replica that could compute at once; 0: all of them
  int replicas = 1;
  std::vector<StageTrace> stages;  ///< by rank: of one replica after the other
};

/// Reads what TraceWriter writes, whole or cut off. Throws UsageError for anything else.
Trace read_trace(const std::filesystem::path& file);

/// Where the time of one stage went, in seconds. They add up to the job's time from its first forward on any
/// stage to its last.
struct TimeByCause {
  double fill = 0;  ///< before the stage's first forward
  double busy = 0;
  double wait_input = 0;
  double wait_plan = 0;
  double send = 0;
  double other = 0;  ///< planning, taking in, between actions
  double drain = 0;  ///< after the stage's last forward
  int64_t forwards = 0;
  int64_t tokens = 0;
  double mean_forward = 0;
  double longest_forward = 0;
};

std::vector<TimeByCause> time_by_cause(const Trace& trace);

}  // namespace penstock
