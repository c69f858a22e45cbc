// The runner with a device that takes its time: what overlaps, and what stays in order.
#include "runtime/pipeline/runner.h"

#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <thread>

#include "tests/unit/pretended_gpu.h"

namespace penstock {
namespace {

using Clock = std::chrono::steady_clock;

/// A device on which a forward ends when the next one has been asked for, or after a patience that is long
/// for a runner that asks ahead.
class SlowDevice final : public test::HostBackedDevice {
 public:
  explicit SlowDevice(std::chrono::milliseconds patience) : patience_(patience) {}
  std::unique_ptr<Moment> mark() override {
    ends_.push_back(Clock::now() + patience_);
    return std::make_unique<Later>(*this, asked(), ends_.back());
  }

  /// Of the forward that was asked for as the index-th.
  bool is_through_with(size_t index) const {
    return index + 1 < ends_.size() || (index < ends_.size() && Clock::now() >= ends_[index]);
  }

  int most_asked_ahead() const { return most_ahead_; }

 private:
  class Later final : public Moment {
   public:
    Later(SlowDevice& device, int number, Clock::time_point end)
        : device_(device), number_(number), end_(end) {}
    ~Later() override { device_.most_ahead_ = std::max(device_.most_ahead_, device_.asked() - number_ + 1); }
    bool reached() const override { return device_.asked() > number_ || Clock::now() >= end_; }

   private:
    SlowDevice& device_;
    int number_;
    Clock::time_point end_;
  };

  int asked() const { return static_cast<int>(ends_.size()); }

  std::chrono::milliseconds patience_;
  std::vector<Clock::time_point> ends_;  // of the forwards asked for, without the next one
  int most_ahead_ = 0;
};

/// Draws, for each row, the token after the one it was given.
class CountingStage final : public test::EmptyStage {
 public:
  CountingStage(bool first, bool last) : EmptyStage(first, last, 4) {}
  DrawingPtr start(const proto::Plan& plan, TensorView in_TD, TensorView) override {
    inputs_.push_back(in_TD.data);
    if (!is_last()) return nullptr;
    std::vector<Sampled> tokens;
    for (const auto& row : plan.rows()) tokens.push_back({static_cast<int32_t>(row.tokens(0)) + 1, 0, {}, 0});
    return std::make_unique<Drawn>(std::move(tokens));
  }

  /// Where the forwards that were asked for read from.
  const std::vector<void*>& inputs() const { return inputs_; }

 private:
  std::vector<void*> inputs_;
};

/// Fails the test where a message may arrive in what the device still reads.
class WatchedReceiver final : public Receiver {
 public:
  WatchedReceiver(std::unique_ptr<Receiver> inner, const SlowDevice& device, const CountingStage& stage)
      : inner_(std::move(inner)), device_(device), stage_(stage) {}
  TransferPtr receive(Bytes buffer) override {
    for (size_t f = 0; f < stage_.inputs().size(); ++f)
      EXPECT_TRUE(stage_.inputs()[f] != buffer.data() || device_.is_through_with(f)) << "forward " << f;
    return inner_->receive(buffer);
  }

 private:
  std::unique_ptr<Receiver> inner_;
  const SlowDevice& device_;
  const CountingStage& stage_;
};

/// One sequence a slot, each of which counts from 0 to `length`.
class Counting final : public PlanSource {
 public:
  Counting(int slots, uint32_t length) : next_(static_cast<size_t>(slots), 0), length_(length) {}
  proto::Plan plan(int slot) override {
    proto::Plan plan;
    const uint32_t token = next_[static_cast<size_t>(slot)];
    if (token == length_) return plan;
    auto* row = plan.add_rows();
    row->set_sequence(static_cast<uint64_t>(slot));
    row->add_tokens(token);
    row->mutable_sampling();
    return plan;
  }
  void take_in(int slot, const proto::StepResult& result) override {
    EXPECT_EQ(result.step(), taken_in_++);
    ASSERT_EQ(result.tokens_size(), 1);
    EXPECT_EQ(result.tokens(0).sequence(), static_cast<uint64_t>(slot));
    uint32_t& next = next_[static_cast<size_t>(slot)];
    EXPECT_EQ(result.tokens(0).token(), next + 1);
    ++next;
  }
  bool finished_or_wait() override { return true; }
  uint64_t taken_in() const { return taken_in_; }

 private:
  std::vector<uint32_t> next_;
  uint32_t length_;
  uint64_t taken_in_ = 0;
};

TEST(Runner, AsksASlowDeviceForTheNextForwardBeforeItIsThroughWithTheLast) {
  const auto world = make_loopback_world(1);
  const Schedule schedule = make_generation_schedule(1, 3);
  SlowDevice device(std::chrono::seconds(1));
  CountingStage stage(true, true);
  Counting source(3, 10);
  Runner runner(stage, device, *world[0], {}, schedule, {0, 0, 8}, &source);
  const auto begin = Clock::now();
  const proto::StageReport report = runner.run();
  EXPECT_EQ(source.taken_in(), 30U);
  EXPECT_EQ(report.micro_batches(), 30U);
  EXPECT_EQ(device.most_asked_ahead(), 2);
  // Only the very last forward has none behind it.
  EXPECT_LT(Clock::now() - begin, std::chrono::seconds(10));
}

TEST(Runner, GivesTokensBackWhenADeviceHasNothingElseToDoAndReceivesIntoMemoryThatNobodyReads) {
  // One micro-batch in flight: the next plan comes only after the tokens of the last one.
  for (const int in_flight : {1, 2, 3}) {
    const auto worlds = make_loopback_world(2);
    const Schedule schedule = make_generation_schedule(2, in_flight);
    SlowDevice devices[2] = {SlowDevice(std::chrono::milliseconds(2)),
                             SlowDevice(std::chrono::milliseconds(2))};
    CountingStage first(true, false), last(false, true);
    Counting source(in_flight, 5);
    std::thread other([&] {
      RunnerEdges edges{std::make_unique<WatchedReceiver>(worlds[1]->receiver(0), devices[1], last), nullptr};
      Runner runner(last, devices[1], *worlds[1], std::move(edges), schedule, {1, 0, 8}, nullptr);
      EXPECT_EQ(runner.run().micro_batches(), static_cast<uint64_t>(5 * in_flight));
      worlds[1]->finish();
    });
    RunnerEdges edges{nullptr, worlds[0]->sender(1)};
    Runner runner(first, devices[0], *worlds[0], std::move(edges), schedule, {0, 0, 8}, &source);
    runner.run();
    worlds[0]->finish();
    other.join();
    EXPECT_EQ(source.taken_in(), static_cast<uint64_t>(5 * in_flight));
  }
}

}  // namespace
}  // namespace penstock
