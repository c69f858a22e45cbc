// What a pipeline loses besides its uneven stages: the real runner, schedule and messages, over GPUs that do
// nothing but take their time. A forward takes what it is told, after the host has prepared it; its hidden
// states arrive at the next stage a hop after its end.
//
//   build/tests/fake_gpus_bench MICRO_BATCHES PREPARE_MS HOP_MS FORWARD_MS...
//
// with one FORWARD_MS for each stage; about four H200 on Llama 8B:
//
//   build/tests/fake_gpus_bench 5 0.5 0.2 8.7 8.7 8.7 8.7
//
// Prints the time of a micro-batch beside that of the slowest stage. Wants cores that are not busy otherwise.
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <thread>
#include <vector>

#include "runtime/pipeline/runner.h"
#include "tests/unit/pretended_gpu.h"

namespace penstock {
namespace {

constexpr uint32_t kRounds = 100;
constexpr std::chrono::microseconds kNap{20};
constexpr double kCopy = 1e-4;    // of a message that is there, into its buffer
constexpr double kLaunch = 5e-6;  // from asking for a forward of an idle device to its beginning

double now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

void sleep_until(double time) {
  while (now() < time) std::this_thread::sleep_for(kNap);
}

class FakeGpu final : public test::HostBackedDevice {
 public:
  explicit FakeGpu(double forward_seconds) : forward_(forward_seconds) {}
  /// The runner asks for it once a forward.
  std::unique_ptr<Moment> mark() override {
    busy_until_ = std::max(now() + kLaunch, busy_until_) + forward_;
    return std::make_unique<Later>(busy_until_);
  }

  double busy_until() const { return busy_until_; }

 private:
  class Later final : public Moment {
   public:
    explicit Later(double end) : end_(end) {}
    bool reached() const override { return now() >= end_; }

   private:
    double end_;
  };

  double forward_;
  double busy_until_ = 0;
};

class FakeStage final : public test::EmptyStage {
 public:
  FakeStage(bool first, bool last, double prepare_seconds)
      : EmptyStage(first, last, sizeof(double) / sizeof(float)), prepare_(prepare_seconds) {}
  DrawingPtr start(const proto::Plan&, TensorView, TensorView) override {
    sleep_until(now() + prepare_);
    return is_last() ? std::make_unique<Drawn>(std::vector<Sampled>(1)) : nullptr;
  }

 private:
  double prepare_;
};

/// Hidden states are the time at which they arrive.
class FakeSender final : public Sender {
 public:
  FakeSender(std::unique_ptr<Sender> inner, const FakeGpu& gpu, double hop)
      : inner_(std::move(inner)), gpu_(gpu), hop_(hop) {}
  TransferPtr send(ConstBytes message) override {
    const double arrival = gpu_.busy_until() + hop_;
    std::memcpy(const_cast<std::byte*>(message.data()), &arrival, sizeof arrival);
    return inner_->send(message);
  }

 private:
  std::unique_ptr<Sender> inner_;
  const FakeGpu& gpu_;
  double hop_;
};

/// A message arrives when it says, however late the receive was posted, as runtime/comm/cuda_edge.h has it.
class FakeReceiver final : public Receiver {
 public:
  explicit FakeReceiver(std::unique_ptr<Receiver> inner) : inner_(std::move(inner)) {}
  TransferPtr receive(Bytes buffer) override {
    return std::make_unique<Arrival>(inner_->receive(buffer), buffer, now() + kCopy);
  }

 private:
  class Arrival final : public Transfer {
   public:
    Arrival(TransferPtr inner, Bytes buffer, double soonest)
        : inner_(std::move(inner)), buffer_(buffer), soonest_(soonest) {}
    bool done() const override {
      if (!inner_->done()) return false;
      double arrival = 0;
      std::memcpy(&arrival, buffer_.data(), sizeof arrival);
      return now() >= std::max(arrival, soonest_);
    }
    void wait() override {
      inner_->wait();
      while (!done()) std::this_thread::sleep_for(kNap);
    }

   private:
    TransferPtr inner_;
    Bytes buffer_;
    double soonest_;
  };

  std::unique_ptr<Receiver> inner_;
};

/// A row for each slot, kRounds times.
class Rounds final : public PlanSource {
 public:
  explicit Rounds(int slots) : done_(static_cast<size_t>(slots), 0) {}
  proto::Plan plan(int slot) override {
    proto::Plan plan;
    if (done_[static_cast<size_t>(slot)] == kRounds) return plan;
    auto* row = plan.add_rows();
    row->set_sequence(static_cast<uint64_t>(slot));
    row->add_tokens(0);
    row->mutable_sampling();
    return plan;
  }
  void take_in(int slot, const proto::StepResult&) override { ++done_[static_cast<size_t>(slot)]; }
  bool finished_or_wait() override { return true; }

 private:
  std::vector<uint32_t> done_;
};

void run(int micro_batches, double prepare, double hop, const std::vector<double>& forwards) {
  const int stages = static_cast<int>(forwards.size());
  const auto worlds = make_loopback_world(stages);
  const Schedule schedule = make_generation_schedule(stages, micro_batches);
  Rounds source(micro_batches);
  std::vector<std::thread> threads;
  const double begin = now();
  for (int s = 0; s < stages; ++s)
    threads.emplace_back([&, s] {
      World& world = *worlds[static_cast<size_t>(s)];
      FakeGpu gpu(forwards[static_cast<size_t>(s)]);
      FakeStage stage(s == 0, s + 1 == stages, prepare);
      RunnerEdges edges;
      if (s > 0) edges.in = std::make_unique<FakeReceiver>(world.receiver(s - 1));
      if (s + 1 < stages) edges.out = std::make_unique<FakeSender>(world.sender(s + 1), gpu, hop);
      Runner runner(stage, gpu, world, std::move(edges), schedule, {s, 0, 1}, s == 0 ? &source : nullptr);
      runner.run();
      world.finish();
    });
  for (std::thread& thread : threads) thread.join();
  const double each = (now() - begin) / (kRounds * micro_batches);
  const double slowest = *std::max_element(forwards.begin(), forwards.end());
  std::printf(
      "%d stages, %d micro-batches in flight: %.2f ms a micro-batch, the slowest stage alone %.2f: %.3f\n",
      stages, micro_batches, 1e3 * each, 1e3 * slowest, slowest / each);
}

}  // namespace
}  // namespace penstock

int main(int argc, char** argv) {
  if (argc < 6) {
    std::fprintf(stderr, "usage: fake_gpus_bench MICRO_BATCHES PREPARE_MS HOP_MS FORWARD_MS FORWARD_MS...\n");
    return 2;
  }
  std::vector<double> forwards;
  for (int i = 4; i < argc; ++i) forwards.push_back(1e-3 * std::atof(argv[i]));
  penstock::run(std::max(1, std::atoi(argv[1])), 1e-3 * std::atof(argv[2]), 1e-3 * std::atof(argv[3]),
                forwards);
  return 0;
}
