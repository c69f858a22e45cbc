#include "runtime/comm/nccl_channel.h"

#include <chrono>
#include <condition_variable>
#include <cstring>
#include <mutex>
#include <thread>

#include "runtime/comm/cuda_edge.h"
#include "runtime/comm/nccl_library.h"
#include "runtime/comm/watchdog.h"

namespace penstock {
namespace {

using std::chrono::milliseconds;

constexpr std::chrono::minutes kInitDeadline{3};
constexpr milliseconds kErrorPeriod{250};
// Either end of a transfer that waits for the other spins on its share of the GPU beside the forward. NCCL
// would take a block for each of up to 32 channels, a quarter of an H100; these reach some tens of GB/s, and
// a hop has a whole forward's time.
constexpr int kBlocks = 2;
// Where those blocks land, a cluster of two blocks of a product may find no second place either.
constexpr int kMultiprocessors = 2 * kBlocks;
// Either end of an edge: sender 0, receiver 1.
constexpr int kSending = 0;
constexpr int kReceiving = 1;

ncclUniqueId parse_id(const std::string& text) {
  ncclUniqueId id{};
  if (text.size() != sizeof id.internal)
    throw Error("an NCCL id has " + std::to_string(sizeof id.internal) + " bytes, found " +
                std::to_string(text.size()));
  std::memcpy(id.internal, text.data(), sizeof id.internal);
  return id;
}

/// One end: the communicator, and a thread that asks now and then whether the edge still holds.
class NcclEdge final : public GpuEdge {
 public:
  NcclEdge(World& world, Device& device, const std::string& id, int from, int to)
      : GpuEdge(device, gpu_edge_name(world, "NCCL", from, to),
                world.rank() == from ? EdgeEnd::sending : EdgeEnd::receiving),
        world_(world) {
    const Watchdog deadline(kInitDeadline, [this] {
      return name() + " was not connected within " + std::to_string(kInitDeadline.count()) +
             " minutes. Check the network between the two hosts, and NCCL_SOCKET_IFNAME and NCCL_IB_HCA, "
             "which "
             "choose the interface; NCCL_DEBUG=INFO says what NCCL tries.";
    });
    ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
    config.maxCTAs = kBlocks;
    check_nccl(library_.init_rank(&communicator_, 2, parse_id(id),
                                  end() == EdgeEnd::sending ? kSending : kReceiving, &config),
               "connecting");
    try {
      try_out("NCCL_P2P_DISABLE=1 goes around a broken connection between GPUs of one host");
    } catch (...) {
      library_.abort(communicator_);
      throw;
    }
    this->device().set_aside(kMultiprocessors);
    watch_ = std::thread([this] { watch_for_errors(); });
  }

  /// Local: what the other end does meanwhile does not matter. Transfers under way end unfinished.
  ~NcclEdge() override {
    {
      const std::lock_guard lock(mutex_);
      over_ = true;
    }
    over_changed_.notify_all();
    watch_.join();
    device().set_aside(-kMultiprocessors);
    library_.abort(communicator_);
  }

 private:
  void pass(void* data, size_t bytes) override {
    if (end() == EdgeEnd::sending)
      check_nccl(library_.send(data, bytes, ncclUint8, kReceiving, communicator_, stream()), "sending");
    else
      check_nccl(library_.receive(data, bytes, ncclUint8, kSending, communicator_, stream()), "receiving");
  }

  void check_nccl(ncclResult_t result, const char* doing) const {
    if (result == ncclSuccess || result == ncclInProgress) return;
    throw Error(name() + ": " + doing + ": " + library_.error_string(result) + ": " +
                library_.last_error(communicator_));
  }

  void watch_for_errors() {
    std::unique_lock lock(mutex_);
    while (!over_changed_.wait_for(lock, kErrorPeriod, [this] { return over_; })) {
      ncclResult_t state = ncclSuccess;
      if (library_.async_error(communicator_, &state) == ncclSuccess &&
          (state == ncclSuccess || state == ncclInProgress))
        continue;
      world_.abort(name() + " broke: " + library_.error_string(state) + ": " +
                   library_.last_error(communicator_));
      return;
    }
  }

  World& world_;
  nccl::Library library_;
  ncclComm_t communicator_ = nullptr;
  std::mutex mutex_;
  std::condition_variable over_changed_;
  bool over_ = false;
  std::thread watch_;
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
  return make_gpu_sender(std::make_shared<NcclEdge>(world, device, id, world.rank(), to));
}

std::unique_ptr<Receiver> make_nccl_receiver(World& world, Device& device, const std::string& id, int from) {
  return make_gpu_receiver(std::make_shared<NcclEdge>(world, device, id, from, world.rank()));
}

}  // namespace penstock
