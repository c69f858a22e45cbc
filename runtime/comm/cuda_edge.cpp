#include "runtime/comm/cuda_edge.h"

#include <chrono>
#include <thread>
#include <utility>
#include <vector>

namespace penstock {
namespace {

using cuda::check;

constexpr std::chrono::microseconds kNap{20};
constexpr size_t kFirstMessage = size_t{1} << 20;

class GpuTransfer final : public Transfer {
 public:
  GpuTransfer(std::shared_ptr<GpuEdge> edge, void* data, size_t bytes)
      : edge_(std::move(edge)), end_(cuda::make_event()) {
    edge_->start(data, bytes, end_.get());
  }
  bool done() const override { return edge_->reached(end_.get()); }
  void wait() override {
    while (!done()) std::this_thread::sleep_for(kNap);
    edge_->order_behind(end_.get());
  }

 private:
  std::shared_ptr<GpuEdge> edge_;
  cuda::Event end_;
};

class GpuSender final : public Sender {
 public:
  explicit GpuSender(std::shared_ptr<GpuEdge> edge) : edge_(std::move(edge)) {}
  TransferPtr send(ConstBytes message) override {
    // A sending end only reads it; the cast lets both ends share their code.
    return std::make_unique<GpuTransfer>(edge_, const_cast<std::byte*>(message.data()), message.size());
  }

 private:
  std::shared_ptr<GpuEdge> edge_;
};

class GpuReceiver final : public Receiver {
 public:
  explicit GpuReceiver(std::shared_ptr<GpuEdge> edge) : edge_(std::move(edge)) {}
  TransferPtr receive(Bytes buffer) override {
    return std::make_unique<GpuTransfer>(edge_, buffer.data(), buffer.size());
  }

 private:
  std::shared_ptr<GpuEdge> edge_;
};

}  // namespace

GpuEdge::GpuEdge(Device& device, std::string name, EdgeEnd end)
    : device_(as_cuda(device)),
      name_(std::move(name)),
      end_(end),
      stream_(cuda::make_urgent_stream()),
      device_so_far_(cuda::make_event()) {}

void GpuEdge::start(void* data, size_t bytes, cudaEvent_t end) {
  if (end_ == EdgeEnd::sending) {
    check(cudaEventRecord(device_so_far_.get(), device_.stream()), "order a transfer");
    check(cudaStreamWaitEvent(stream(), device_so_far_.get(), 0), "order a transfer");
  }
  pass(data, bytes);
  check(cudaEventRecord(end, stream()), "mark the end of a transfer");
}

bool GpuEdge::reached(cudaEvent_t end) const {
  const cudaError_t status = cudaEventQuery(end);
  if (status != cudaErrorNotReady) check(status, name_.c_str());
  return status == cudaSuccess;
}

void GpuEdge::order_behind(cudaEvent_t end) {
  check(cudaStreamWaitEvent(device_.stream(), end, 0), "order work behind a transfer");
}

void GpuEdge::try_out(const char* remedy) {
  const Tensor tensor = device_.tensor(DType::i32, {static_cast<int64_t>(kFirstMessage / sizeof(int32_t))});
  std::vector<int32_t> expected(kFirstMessage / sizeof(int32_t));
  for (size_t i = 0; i < expected.size(); ++i) expected[i] = static_cast<int32_t>(i * 2654435761U);
  std::vector<int32_t> found(end_ == EdgeEnd::sending ? expected : std::vector<int32_t>(expected.size(), -1));
  device_.upload(tensor.view.data, found.data(), kFirstMessage);
  device_.synchronize();
  const cuda::Event end = cuda::make_event();
  start(tensor.view.data, kFirstMessage, end.get());
  while (!reached(end.get())) std::this_thread::sleep_for(std::chrono::milliseconds(1));
  if (end_ == EdgeEnd::sending) return;
  device_.download(found.data(), tensor.view.data, kFirstMessage);
  if (found != expected) throw Error(name_ + " delivers other bytes than were sent; " + remedy);
}

std::string gpu_edge_name(const World& world, const char* kind, int from, int to) {
  const auto named = [&world](int rank) {
    return "rank " + std::to_string(rank) + " (" + world.info(rank).host + ")";
  };
  return std::string("the ") + kind + " edge from " + named(from) + " to " + named(to);
}

std::unique_ptr<Sender> make_gpu_sender(std::shared_ptr<GpuEdge> edge) {
  return std::make_unique<GpuSender>(std::move(edge));
}

std::unique_ptr<Receiver> make_gpu_receiver(std::shared_ptr<GpuEdge> edge) {
  return std::make_unique<GpuReceiver>(std::move(edge));
}

}  // namespace penstock
