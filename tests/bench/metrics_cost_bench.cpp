// What watching costs: two stages as threads of this process generate without end, and second by second the
// watching is switched on and off (on, off, off, on, ..., so that drift cancels): request times, live reports
// over the control plane, and a scraper that fetches /metrics and the page's figures. Reports and scrapes
// come four times a second, four times as often as in a job. Prints the ratio of throughput with and without.
//   build/tests/metrics_cost_bench [MODEL [SECONDS]]
#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <memory>
#include <thread>
#include <vector>

#include "launch/rank_job.h"
#include "launch/stage_reporter.h"
#include "runtime/metrics/exposition.h"
#include "runtime/metrics/http_server.h"
#include "runtime/metrics/page.h"
#include "runtime/pipeline/runner.h"
#include "runtime/requests/scheduler.h"

namespace penstock {
namespace {

using Clock = std::chrono::steady_clock;
constexpr double kInterval = 0.25;
constexpr double kSegmentSeconds = 1;

/// GETs both documents until destroyed.
class Scraper {
 public:
  explicit Scraper(uint16_t port) : thread_([this, port] { run(port); }) {}
  ~Scraper() {
    stop_ = true;
    thread_.join();
  }

 private:
  void run(uint16_t port) {
    while (!stop_) {
      get(port, "GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
      get(port, "GET /state HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
      std::this_thread::sleep_for(std::chrono::duration<double>(kInterval));
    }
  }
  static void get(uint16_t port, const std::string& request) {
    const int socket = ::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_port = htons(port);
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    char piece[65536];
    if (connect(socket, reinterpret_cast<const sockaddr*>(&address), sizeof address) == 0) {
      send(socket, request.data(), request.size(), MSG_NOSIGNAL);
      while (recv(socket, piece, sizeof piece, 0) > 0) {
      }
    }
    close(socket);
  }

  std::atomic<bool> stop_{false};
  std::thread thread_;
};

struct Rank {
  World* world = nullptr;
  ReadyRank ready;
  std::unique_ptr<Runner> runner;
};

class AlternatingPlans final : public PlanSource {
 public:
  AlternatingPlans(std::vector<Rank>& ranks, JobMetrics& metrics, double seconds)
      : ranks_(ranks),
        metrics_(metrics),
        segments_(static_cast<size_t>(seconds / kSegmentSeconds)),
        scheduler_({ranks[0].ready.shape.max_num_seqs, ranks[0].ready.shape.max_num_batched_tokens, 16,
                    ranks[0].ready.blocks, ranks[0].ready.shape.schedule.micro_batches}),
        server_("127.0.0.1", 0, [this](std::string_view path) -> std::optional<HttpAnswer> {
          const JobSnapshot snapshot = metrics_.snapshot(Clock::now());
          if (path == "/state") return HttpAnswer{"application/json", page_state(snapshot)};
          return HttpAnswer{kPrometheusContentType, prometheus_text(snapshot, {"vllm:"})};
        }) {}

  proto::Plan plan(int slot) override {
    refill();
    if (finished()) return {};
    proto::Plan plan = scheduler_.plan(slot);
    if (on_) metrics_.requests().planned(plan, Clock::now());
    return plan;
  }

  void take_in(int slot, const proto::StepResult& result) override {
    if (on_) metrics_.requests().sampled(result, Clock::now());
    tokens_ += result.tokens_size();
    for (const FinishedSequence& s : scheduler_.complete(slot, result))
      if (on_) metrics_.requests().finished(s.id, name_of(s.reason), Clock::now());
    const double seconds = std::chrono::duration<double>(Clock::now() - begin_).count();
    if (seconds < kSegmentSeconds || finished()) return;
    rates_.push_back(static_cast<double>(tokens_) / seconds);
    const size_t next = rates_.size() % 4;  // on, off, off, on
    watch(next == 0 || next == 3);
    tokens_ = 0;
    begin_ = Clock::now();
  }

  bool finished_or_wait() override { return finished(); }

  void watch(bool on) {
    on_ = on;
    scraper_.reset();
    reporters_.clear();
    if (!on) return;
    for (Rank& rank : ranks_)
      reporters_.push_back(std::make_unique<StageReporter>(
          *rank.world, rank.runner->meter(), rank.ready, kInterval,
          [this](const proto::StageReport& report) { metrics_.stage_reported(report, Clock::now()); }));
    scraper_ = std::make_unique<Scraper>(server_.port());
  }

  const std::vector<double>& rates() const { return rates_; }

 private:
  bool finished() const { return rates_.size() >= segments_; }
  void refill() {
    while (static_cast<int64_t>(scheduler_.running() + scheduler_.waiting()) <
           ranks_[0].ready.shape.max_num_seqs) {
      SequenceSpec spec;
      spec.id = next_id_++;
      spec.prompt.assign(32, static_cast<int32_t>(1 + spec.id % 100));
      spec.max_tokens = 64 + static_cast<int64_t>(spec.id * 37 % 64);
      spec.sampling.set_logprobs(-1);
      // Always, so that a request that is running when the watching begins is known to it.
      metrics_.requests().arrived(spec.id, {32, spec.max_tokens, 1, 0}, Clock::now());
      scheduler_.add(std::move(spec));
    }
  }

  std::vector<Rank>& ranks_;
  JobMetrics& metrics_;
  const size_t segments_;
  Scheduler scheduler_;
  HttpServer server_;
  bool on_ = false;
  int64_t tokens_ = 0;
  uint64_t next_id_ = 1;
  Clock::time_point begin_ = Clock::now();
  std::vector<double> rates_;
  std::vector<std::unique_ptr<StageReporter>> reporters_;
  std::unique_ptr<Scraper> scraper_;
};

double median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  const size_t half = values.size() / 2;
  return values.size() % 2 == 1 ? values[half] : (values[half - 1] + values[half]) / 2;
}

/// What a begin and an end of the meter cost, in nanoseconds.
double meter_cost() {
  StageMeter meter(0);
  constexpr int kTimes = 1000000;
  const auto begin = Clock::now();
  for (int i = 0; i < kTimes; ++i) Stopwatch(meter, proto::ACTIVITY_BUSY, 0).done(1);
  return 1e9 * std::chrono::duration<double>(Clock::now() - begin).count() / kTimes;
}

/// What rank 0 spends on the times of one token, in nanoseconds, when 1024 sequences run.
double token_cost() {
  constexpr uint64_t kSequences = 1024;
  constexpr int kTimes = 1000;
  RequestMetrics requests(4096);
  proto::StepResult result;
  proto::Plan plan;
  for (uint64_t s = 0; s < kSequences; ++s) {
    requests.arrived(s * 7919, {32, 64, 1, 0}, Clock::now());
    result.add_tokens()->set_sequence(s * 7919);
    auto* row = plan.add_rows();
    row->set_sequence(s * 7919);
    row->add_tokens(1);
    row->mutable_sampling()->set_position(1);
  }
  const auto begin = Clock::now();
  for (int i = 0; i < kTimes; ++i) {
    requests.planned(plan, Clock::now());
    requests.sampled(result, Clock::now());
  }
  return 1e9 * std::chrono::duration<double>(Clock::now() - begin).count() / (kTimes * kSequences);
}

void run(const std::string& model, double seconds) {
  constexpr int kStages = 2;
  const auto worlds = make_loopback_world(kStages);
  std::vector<Rank> ranks(kStages);
  std::vector<std::thread> threads;
  JobOptions options;
  options.model = model;
  options.threads = 1;
  options.kv_cache_bytes = int64_t{256} << 20;
  const auto each = [&](const std::function<void(size_t)>& body) {
    std::vector<std::thread> all;
    for (size_t r = 0; r < ranks.size(); ++r) all.emplace_back([&body, r] { body(r); });
    for (std::thread& t : all) t.join();
  };
  each([&](size_t r) {
    ranks[r].world = worlds[r].get();
    ranks[r].ready = make_ready(*worlds[r], options);
  });
  JobDescription job;
  job.model_name = "bench";
  job.max_model_len = 4096;
  for (int s = 0; s < kStages; ++s) job.stages.push_back({s, "here", "CPU", "part"});
  JobMetrics metrics(job);
  AlternatingPlans plans(ranks, metrics, seconds);
  for (size_t r = 0; r < ranks.size(); ++r)
    ranks[r].runner = std::make_unique<Runner>(
        *ranks[r].ready.stage, *ranks[r].ready.device, *worlds[r], std::move(ranks[r].ready.edges),
        ranks[r].ready.shape.schedule,
        RunnerOptions{static_cast<int>(r), 0, ranks[r].ready.shape.max_num_batched_tokens},
        r == 0 ? &plans : nullptr);
  worlds[0]->control().hear_live_reports([&metrics](const ControlMessage& message) {
    proto::StageReport report;
    if (report.ParseFromString(message.payload)) metrics.stage_reported(report, Clock::now());
  });
  plans.watch(true);
  proto::StageReport last;
  each([&](size_t r) {
    const proto::StageReport report = ranks[r].runner->run();
    if (r == 1) last = report;
  });
  plans.watch(false);
  each([&](size_t r) { worlds[r]->finish(); });

  // Of each four segments the two with and the two without; the first four warm up.
  std::vector<double> ratios;
  const std::vector<double>& v = plans.rates();
  for (size_t i = 4; i + 3 < v.size(); i += 4) ratios.push_back((v[i] + v[i + 3]) / (v[i + 1] + v[i + 2]));
  if (ratios.empty()) throw UsageError("expected at least 8 seconds, found fewer");
  const double per_forward = last.busy_seconds() / static_cast<double>(last.micro_batches());
  std::printf("%zu groups of four seconds, %.0f tokens/s, %.2f ms a forward\n", ratios.size(), median(v),
              1e3 * per_forward);
  std::printf("throughput watched / not watched: median %.4f (from %.4f to %.4f)\n", median(ratios),
              *std::min_element(ratios.begin(), ratios.end()),
              *std::max_element(ratios.begin(), ratios.end()));
  std::printf("request times: %.0f ns a token, with 1024 sequences in a micro-batch\n", token_cost());
  const double stretch = meter_cost();
  std::printf("the stage's own meter, always on: %.0f ns a stretch, 4 stretches a forward: %.3f %%\n",
              stretch, 100 * 4 * 1e-9 * stretch / per_forward);
}

}  // namespace
}  // namespace penstock

int main(int argc, char** argv) {
  try {
    penstock::run(argc > 1 ? argv[1] : "tests/models/gsm-llama-18", argc > 2 ? std::atof(argv[2]) : 44);
    return 0;
  } catch (const std::exception& e) {
    std::fprintf(stderr, "%s\n", e.what());
    return 1;
  }
}
