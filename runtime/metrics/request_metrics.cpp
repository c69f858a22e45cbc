#include "runtime/metrics/request_metrics.h"

#include <algorithm>
#include <utility>

namespace penstock {
namespace {

constexpr size_t kRowsKept = 8;
constexpr size_t kBytesOfARow = 600;
// Fields at fault are names that inputs choose: the further ones are counted together.
constexpr size_t kMostReasons = 32;
constexpr size_t kLongestReason = 64;
constexpr std::chrono::seconds kBetweenSamples{1};

/// 1, 2, 5, 10, 20, 50 ... up to `most`, as vLLM's build_1_2_5_buckets.
std::vector<double> one_two_five(int64_t most) {
  std::vector<double> bounds;
  for (int64_t decade = 1;; decade *= 10)
    for (const int64_t mantissa : {1, 2, 5}) {
      if (mantissa * decade > most && !bounds.empty()) return bounds;
      bounds.push_back(static_cast<double>(mantissa * decade));
    }
}

// vLLM's buckets (vllm/v1/metrics/loggers.py), so that its boards draw the same curves.
std::vector<Histogram> empty_histograms(int64_t max_model_len) {
  const std::vector<double> latency{0.3,  0.5,  0.8,  1.0,  1.5,   2.0,   2.5,   5.0,   10.0,   15.0,  20.0,
                                    30.0, 40.0, 50.0, 60.0, 120.0, 240.0, 480.0, 960.0, 1920.0, 7680.0};
  const std::vector<double> per_token{0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2,  0.3,  0.4, 0.5,
                                      0.75, 1.0,   2.5,  5.0,   7.5, 10.0, 20.0, 40.0, 80.0};
  const std::vector<double> lengths = one_two_five(max_model_len);
  return {
      Histogram({1, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384}),
      Histogram({0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1,  0.25,  0.5,   0.75,
                 1.0,   2.5,   5.0,  7.5,  10.0, 20.0, 40.0, 80.0, 160.0, 640.0, 2560.0}),
      Histogram(per_token),
      Histogram(per_token),
      Histogram(latency),
      Histogram(latency),
      Histogram(latency),
      Histogram(latency),
      Histogram(latency),
      Histogram(lengths),
      Histogram(lengths),
      Histogram({1, 2, 5, 10, 20}),
      Histogram(lengths),
  };
}

double between(RequestMetrics::Clock::time_point from, RequestMetrics::Clock::time_point to) {
  return std::chrono::duration<double>(to - from).count();
}

/// Cut before a UTF-8 sequence, not inside it.
void shorten(std::string& text, size_t bytes) {
  if (text.size() <= bytes) return;
  while (bytes > 0 && (static_cast<unsigned char>(text[bytes]) & 0xC0U) == 0x80U) --bytes;
  text.resize(bytes);
  text += "…";
}

void keep(std::vector<RowSample>& rows, RowSample row) {
  shorten(row.custom_id, kLongestReason);
  shorten(row.reason, kLongestReason);
  shorten(row.text, kBytesOfARow);
  rows.insert(rows.begin(), std::move(row));
  if (rows.size() > kRowsKept) rows.pop_back();
}

bool decodes(const proto::PlannedRow& row) {
  return row.tokens_size() == 1 && row.has_sampling() && row.sampling().position() > 0;
}

}  // namespace

const std::array<RequestHistogramName, kRequestHistograms>& request_histogram_names() {
  static const std::array<RequestHistogramName, kRequestHistograms> names{{
      {"iteration_tokens_total", "Tokens per micro-batch."},
      {"time_to_first_token_seconds", "From a request's arrival to its first token."},
      {"inter_token_latency_seconds", "Between two tokens of a request."},
      {"request_time_per_output_token_seconds", "A request's mean time per token after its first one."},
      {"e2e_request_latency_seconds", "From a request's arrival to its last token."},
      {"request_queue_time_seconds", "From a request's arrival until it is first planned."},
      {"request_inference_time_seconds", "From a request's first planning to its last token."},
      {"request_prefill_time_seconds", "From a request's first planning to its first token."},
      {"request_decode_time_seconds", "From a request's first token to its last one."},
      {"request_prompt_tokens", "Prompt tokens of finished requests."},
      {"request_generation_tokens", "Generated tokens of finished requests."},
      {"request_params_n", "The n of requests."},
      {"request_params_max_tokens", "The max_tokens of requests."},
  }};
  return names;
}

RequestMetrics::RequestMetrics(int64_t max_model_len) {
  figures_.histograms = empty_histograms(max_model_len);
  figures_.finished = {{"stop", 0}, {"length", 0}};
}

void RequestMetrics::arrived(uint64_t sequence, const Arrival& arrival, Clock::time_point now) {
  const std::lock_guard lock(mutex_);
  Live& live = live_[sequence];
  live.arrival = arrival;
  live.arrived = now;
}

void RequestMetrics::planned(const proto::Plan& plan, Clock::time_point now) {
  if (plan.rows().empty()) return;
  int64_t tokens = 0;
  const std::lock_guard lock(mutex_);
  for (const auto& row : plan.rows()) {
    tokens += row.tokens_size();
    if (decodes(row)) continue;
    const auto found = live_.find(row.sequence());
    if (found == live_.end() || found->second.was_scheduled) continue;
    found->second.was_scheduled = true;
    found->second.scheduled = now;
  }
  of(RequestHistogram::iteration_tokens).observe(static_cast<double>(tokens));
}

void RequestMetrics::sampled(const proto::StepResult& result, Clock::time_point now) {
  const std::lock_guard lock(mutex_);
  // Sequences of one micro-batch mostly had their last tokens together too: their latencies are one.
  Clock::time_point last{};
  uint64_t together = 0;
  const auto observe = [&] {
    if (together > 0) of(RequestHistogram::inter_token_latency).observe(between(last, now), together);
    together = 0;
  };
  for (const auto& token : result.tokens()) {
    const auto found = live_.find(token.sequence());
    if (found == live_.end()) continue;
    Live& live = found->second;
    if (live.tokens++ == 0) {
      live.first = now;
      if (live.arrival.choice == 0) prompt_tokens_ += live.arrival.prompt_tokens;
      of(RequestHistogram::time_to_first_token).observe(between(live.arrived, now));
    } else {
      if (live.last != last) observe();
      last = live.last;
      ++together;
    }
    live.last = now;
  }
  observe();
}

void RequestMetrics::finished(uint64_t sequence, std::string_view reason, Clock::time_point now) {
  const std::lock_guard lock(mutex_);
  const auto found = live_.find(sequence);
  if (found == live_.end()) return;
  const Live live = found->second;
  live_.erase(found);
  ++figures_.finished[std::string(reason)];
  of(RequestHistogram::e2e_latency).observe(between(live.arrived, now));
  of(RequestHistogram::queue_time).observe(between(live.arrived, live.scheduled));
  of(RequestHistogram::inference_time).observe(between(live.scheduled, now));
  of(RequestHistogram::prefill_time).observe(between(live.scheduled, live.first));
  of(RequestHistogram::decode_time).observe(between(live.first, now));
  if (live.tokens > 1)
    of(RequestHistogram::time_per_output_token)
        .observe(between(live.first, now) / static_cast<double>(live.tokens - 1));
  of(RequestHistogram::prompt_tokens).observe(static_cast<double>(live.arrival.prompt_tokens));
  of(RequestHistogram::generation_tokens).observe(static_cast<double>(live.tokens));
  of(RequestHistogram::params_max_tokens).observe(static_cast<double>(live.arrival.max_tokens));
  if (live.arrival.choice == 0) of(RequestHistogram::params_n).observe(static_cast<double>(live.arrival.n));
}

bool RequestMetrics::wants_sample(Clock::time_point now) const {
  const std::lock_guard lock(mutex_);
  return figures_.samples.empty() || now - last_sample_ >= kBetweenSamples;
}

void RequestMetrics::row_finished(RowSample row, Clock::time_point now) {
  const std::lock_guard lock(mutex_);
  last_sample_ = now;
  keep(figures_.samples, std::move(row));
}

void RequestMetrics::row_failed(RowSample row) {
  const std::lock_guard lock(mutex_);
  std::string reason = row.reason.empty() ? "line" : row.reason;
  shorten(reason, kLongestReason);
  if (figures_.failed.size() >= kMostReasons && !figures_.failed.contains(reason)) reason = "other";
  ++figures_.failed[reason];
  keep(figures_.errors, std::move(row));
}

int64_t RequestMetrics::prompt_tokens() const {
  const std::lock_guard lock(mutex_);
  return prompt_tokens_;
}

RequestFigures RequestMetrics::figures() const {
  const std::lock_guard lock(mutex_);
  return figures_;
}

}  // namespace penstock
