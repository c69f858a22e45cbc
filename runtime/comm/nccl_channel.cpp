#include "runtime/comm/nccl_channel.h"

#include <chrono>
#include <condition_variable>
#include <cstring>
#include <mutex>
#include <thread>
#include <vector>

#include "runtime/comm/nccl_library.h"
#include "runtime/comm/watchdog.h"
#include "runtime/device/cuda_device.h"

namespace penstock {
namespace {

using cuda::check;
using std::chrono::milliseconds;

constexpr std::chrono::minutes kInitDeadline{3};
constexpr milliseconds kErrorPeriod{250};
constexpr std::chrono::microseconds kNap{20};
// Either end of a transfer that waits for the other spins on its share of the GPU beside the forward. NCCL
// would take a block for each of up to 32 channels, a quarter of an H100; these reach some tens of GB/s, and
// a hop has a whole forward's time.
constexpr int kBlocks = 2;
// Where those blocks land, a cluster of two blocks of a product may find no second place either.
constexpr int kMultiprocessors = 2 * kBlocks;
constexpr size_t kFirstMessage = size_t{1} << 20;
// Either end of an edge: sender 0, receiver 1.
constexpr int kSending = 0;
constexpr int kReceiving = 1;

std::string edge_text(const World& world, int from, int to) {
  const auto named = [&world](int rank) {
    return "rank " + std::to_string(rank) + " (" + world.info(rank).host + ")";
  };
  return "the NCCL edge from " + named(from) + " to " + named(to);
}

ncclUniqueId parse_id(const std::string& text) {
  ncclUniqueId id{};
  if (text.size() != sizeof id.internal)
    throw Error("an NCCL id has " + std::to_string(sizeof id.internal) + " bytes, found " +
                std::to_string(text.size()));
  std::memcpy(id.internal, text.data(), sizeof id.internal);
  return id;
}

/// One end: the communicator, its stream, and a thread that asks now and then whether the edge still holds.
class NcclEdge {
 public:
  NcclEdge(World& world, Device& device, const std::string& id, int from, int to)
      : world_(world),
        device_(as_cuda(device)),
        text_(edge_text(world, from, to)),
        end_(world.rank() == from ? kSending : kReceiving),
        stream_(cuda::make_urgent_stream()) {
    const Watchdog deadline(kInitDeadline, [this] {
      return text_ + " was not connected within " + std::to_string(kInitDeadline.count()) +
             " minutes. Check the network between the two hosts, and NCCL_SOCKET_IFNAME and NCCL_IB_HCA, "
             "which "
             "choose the interface; NCCL_DEBUG=INFO says what NCCL tries.";
    });
    ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
    config.maxCTAs = kBlocks;
    check_nccl(library_.init_rank(&communicator_, 2, parse_id(id), end_, &config), "connecting");
    try {
      try_out();
    } catch (...) {
      library_.abort(communicator_);
      throw;
    }
    device_.set_aside(kMultiprocessors);
    watch_ = std::thread([this] { watch_for_errors(); });
  }

  /// Local: what the other end does meanwhile does not matter. Transfers under way end unfinished.
  ~NcclEdge() {
    {
      const std::lock_guard lock(mutex_);
      over_ = true;
    }
    over_changed_.notify_all();
    watch_.join();
    device_.set_aside(-kMultiprocessors);
    library_.abort(communicator_);
  }
  NcclEdge(const NcclEdge&) = delete;
  NcclEdge& operator=(const NcclEdge&) = delete;

  /// Starts the transfer behind the device's work so far, and marks its end.
  void start(void* data, size_t bytes, cudaEvent_t begin, cudaEvent_t end) {
    check(cudaEventRecord(begin, device_.stream()), "order a transfer");
    check(cudaStreamWaitEvent(stream_.get(), begin, 0), "order a transfer");
    if (end_ == kSending)
      check_nccl(library_.send(data, bytes, ncclUint8, kReceiving, communicator_, stream_.get()), "sending");
    else
      check_nccl(library_.receive(data, bytes, ncclUint8, kSending, communicator_, stream_.get()),
                 "receiving");
    check(cudaEventRecord(end, stream_.get()), "mark the end of a transfer");
  }

  bool reached(cudaEvent_t end) const {
    const cudaError_t status = cudaEventQuery(end);
    if (status != cudaErrorNotReady) check(status, text_.c_str());
    return status == cudaSuccess;
  }

  /// Later work of the device comes behind what was marked.
  void order_behind(cudaEvent_t end) {
    check(cudaStreamWaitEvent(device_.stream(), end, 0), "order work behind a transfer");
  }

 private:
  void check_nccl(ncclResult_t result, const char* doing) const {
    if (result == ncclSuccess || result == ncclInProgress) return;
    throw Error(text_ + ": " + doing + ": " + library_.error_string(result) + ": " +
                library_.last_error(communicator_));
  }

  /// Connections are made when the first message passes: here, not in the first step; and it must arrive
  /// whole.
  void try_out() {
    const Tensor tensor = device_.tensor(DType::i32, {static_cast<int64_t>(kFirstMessage / sizeof(int32_t))});
    std::vector<int32_t> expected(kFirstMessage / sizeof(int32_t));
    for (size_t i = 0; i < expected.size(); ++i) expected[i] = static_cast<int32_t>(i * 2654435761U);
    std::vector<int32_t> found(end_ == kSending ? expected : std::vector<int32_t>(expected.size(), -1));
    device_.upload(tensor.view.data, found.data(), kFirstMessage);
    const cuda::Event begin = cuda::make_event();
    const cuda::Event end = cuda::make_event();
    start(tensor.view.data, kFirstMessage, begin.get(), end.get());
    while (!reached(end.get())) std::this_thread::sleep_for(milliseconds(1));
    if (end_ == kSending) return;
    device_.download(found.data(), tensor.view.data, kFirstMessage);
    if (found != expected)
      throw Error(text_ +
                  " delivers other bytes than were sent; NCCL_P2P_DISABLE=1 goes around a broken "
                  "connection between GPUs of one host");
  }

  void watch_for_errors() {
    std::unique_lock lock(mutex_);
    while (!over_changed_.wait_for(lock, kErrorPeriod, [this] { return over_; })) {
      ncclResult_t state = ncclSuccess;
      if (library_.async_error(communicator_, &state) == ncclSuccess &&
          (state == ncclSuccess || state == ncclInProgress))
        continue;
      world_.abort(text_ + " broke: " + library_.error_string(state) + ": " +
                   library_.last_error(communicator_));
      return;
    }
  }

  World& world_;
  CudaDevice& device_;
  nccl::Library library_;
  std::string text_;
  int end_;
  cuda::Stream stream_;
  ncclComm_t communicator_ = nullptr;
  std::mutex mutex_;
  std::condition_variable over_changed_;
  bool over_ = false;
  std::thread watch_;
};

class NcclTransfer final : public Transfer {
 public:
  NcclTransfer(std::shared_ptr<NcclEdge> edge, void* data, size_t bytes)
      : edge_(std::move(edge)), begin_(cuda::make_event()), end_(cuda::make_event()) {
    edge_->start(data, bytes, begin_.get(), end_.get());
  }
  bool done() const override { return edge_->reached(end_.get()); }
  void wait() override {
    while (!done()) std::this_thread::sleep_for(kNap);
    edge_->order_behind(end_.get());
  }

 private:
  std::shared_ptr<NcclEdge> edge_;
  cuda::Event begin_;
  cuda::Event end_;
};

class NcclSender final : public Sender {
 public:
  explicit NcclSender(std::shared_ptr<NcclEdge> edge) : edge_(std::move(edge)) {}
  TransferPtr send(ConstBytes message) override {
    // NCCL only reads it; the cast lets both ends share their code.
    return std::make_unique<NcclTransfer>(edge_, const_cast<std::byte*>(message.data()), message.size());
  }

 private:
  std::shared_ptr<NcclEdge> edge_;
};

class NcclReceiver final : public Receiver {
 public:
  explicit NcclReceiver(std::shared_ptr<NcclEdge> edge) : edge_(std::move(edge)) {}
  TransferPtr receive(Bytes buffer) override {
    return std::make_unique<NcclTransfer>(edge_, buffer.data(), buffer.size());
  }

 private:
  std::shared_ptr<NcclEdge> edge_;
};

}  // namespace

std::string make_nccl_id() {
  const nccl::Library library;
  ncclUniqueId id{};
  const ncclResult_t result = library.get_unique_id(&id);
  if (result != ncclSuccess)
    throw Error(std::string("NCCL cannot begin: ") + library.error_string(result) + ": " +
                library.last_error(nullptr) +
                "; NCCL_SOCKET_IFNAME chooses the network interface, NCCL_DEBUG=WARN says more");
  return {id.internal, sizeof id.internal};
}

std::unique_ptr<Sender> make_nccl_sender(World& world, Device& device, const std::string& id, int to) {
  return std::make_unique<NcclSender>(std::make_shared<NcclEdge>(world, device, id, world.rank(), to));
}

std::unique_ptr<Receiver> make_nccl_receiver(World& world, Device& device, const std::string& id, int from) {
  return std::make_unique<NcclReceiver>(std::make_shared<NcclEdge>(world, device, id, from, world.rank()));
}

}  // namespace penstock
