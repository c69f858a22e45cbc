// What happens to requests, as vLLM counts it: histograms of their times and sizes, counts by outcome, and a
// few rows to look at. Fed by the planning and the writing thread, read by any; every call is short and holds
// one lock. Knows no clock of its own.
//
// A request here is one sequence (one prompt, one choice). It arrives when it enters the scheduler, which a
// batch job keeps a few batches deep, not when its line is read.
#pragma once

#include <array>
#include <chrono>
#include <cstdint>
#include <deque>
#include <map>
#include <mutex>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "proto/plan.pb.h"
#include "runtime/metrics/histogram.h"

namespace penstock {

enum class RequestHistogram : size_t {
  iteration_tokens,
  time_to_first_token,
  inter_token_latency,
  time_per_output_token,
  e2e_latency,
  queue_time,
  inference_time,
  prefill_time,
  decode_time,
  prompt_tokens,
  generation_tokens,
  params_n,
  params_max_tokens,
};
constexpr size_t kRequestHistograms = 13;

/// vLLM's name and what it says about it, without a prefix.
struct RequestHistogramName {
  const char* name;
  const char* help;
};
const std::array<RequestHistogramName, kRequestHistograms>& request_histogram_names();

/// A row for people to look at. Text is what models and inputs said: escape it.
struct RowSample {
  std::string custom_id;
  std::string text;    ///< the answer's beginning, or what is wrong with the row
  std::string reason;  ///< of finishing; of a failed row the field at fault
};

struct RequestFigures {
  std::vector<Histogram> histograms;         ///< by RequestHistogram
  std::map<std::string, uint64_t> finished;  ///< sequences by reason
  std::map<std::string, uint64_t> failed;    ///< rows by the field at fault
  std::vector<RowSample> samples;            ///< newest first
  std::vector<RowSample> errors;             ///< newest first

  const Histogram& of(RequestHistogram h) const { return histograms[static_cast<size_t>(h)]; }
};

struct Arrival {
  int64_t prompt_tokens = 0;
  int64_t max_tokens = 0;
  int64_t n = 1;
  int64_t choice = 0;  ///< n is counted with choice 0
};

class RequestMetrics {
 public:
  using Clock = std::chrono::steady_clock;

  explicit RequestMetrics(int64_t max_model_len);

  void arrived(uint64_t sequence, const Arrival& arrival, Clock::time_point now);
  void planned(const proto::Plan& plan, Clock::time_point now);
  void sampled(const proto::StepResult& result, Clock::time_point now);
  void finished(uint64_t sequence, std::string_view reason, Clock::time_point now);

  /// One finished row a second is kept to be looked at; false when this one would not be.
  bool wants_sample(Clock::time_point now) const;
  void row_finished(RowSample row, Clock::time_point now);
  void row_failed(RowSample row);

  RequestFigures figures() const;
  /// Of prompts that have their first token; a prompt with several choices counts once.
  int64_t prompt_tokens() const;

 private:
  struct Live {
    Arrival arrival;
    Clock::time_point arrived, scheduled, first, last;
    int64_t tokens = 0;
    bool was_scheduled = false;
  };
  Histogram& of(RequestHistogram h) { return figures_.histograms[static_cast<size_t>(h)]; }

  mutable std::mutex mutex_;
  RequestFigures figures_;
  std::unordered_map<uint64_t, Live> live_;
  Clock::time_point last_sample_{};
  int64_t prompt_tokens_ = 0;
};

}  // namespace penstock
