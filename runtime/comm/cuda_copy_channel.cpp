#include "runtime/comm/cuda_copy_channel.h"

#include <cuda.h>

#include <algorithm>
#include <chrono>
#include <cstring>
#include <thread>
#include <utility>

#include "runtime/base/log.h"
#include "runtime/comm/cuda_edge.h"
#include "runtime/comm/watchdog.h"

namespace penstock {
namespace {

using cuda::check;

constexpr std::chrono::minutes kTrialDeadline{3};
// While one chunk is copied out of the ring the next ones arrive.
constexpr size_t kChunk = size_t{8} << 20;
constexpr uint32_t kChunks = 8;
constexpr size_t kRing = kChunks * kChunk;
// Behind the ring, if there is one. Memory is shared in pages of so much: no other allocation lies in them.
constexpr size_t kPage = size_t{2} << 20;

/// Words in device memory that a stream waits for or writes: the driver's functions, found when they are
/// needed, as the program must start without a driver.
class StreamWords {
 public:
  StreamWords() {
    find(wait_, "cuStreamWaitValue32");
    find(write_, "cuStreamWriteValue32");
  }
  /// Until *word - value, which wrap around, is not negative.
  void wait_until(cudaStream_t stream, void* word, uint32_t value) const {
    check_word(wait_(stream, reinterpret_cast<CUdeviceptr>(word), value, CU_STREAM_WAIT_VALUE_GEQ), "wait");
  }
  /// Behind the stream's copies, which whoever sees the value sees too.
  void write(cudaStream_t stream, void* word, uint32_t value) const {
    check_word(write_(stream, reinterpret_cast<CUdeviceptr>(word), value, CU_STREAM_WRITE_VALUE_DEFAULT),
               "write");
  }

 private:
  template <class F>
  static void find(F& function, const char* name) {
    void* found = nullptr;
    cudaDriverEntryPointQueryResult result{};
    check(cudaGetDriverEntryPointByVersion(name, &found, 12000, cudaEnableDefault, &result), name);
    if (result != cudaDriverEntryPointSuccess)
      throw Error(std::string("CUDA: expected a driver of CUDA 12 or later, found one without ") + name);
    function = reinterpret_cast<F>(found);
  }
  static void check_word(CUresult status, const char* what) {
    if (status != CUDA_SUCCESS)
      throw Error(std::string("CUDA: a stream's ") + what + " for a word in memory: status " +
                  std::to_string(status));
  }

  decltype(&cuStreamWaitValue32) wait_ = nullptr;
  decltype(&cuStreamWriteValue32) write_ = nullptr;
};

using DeviceBytes = cuda::Handle<void*, cudaFree>;
using OpenedBytes = cuda::Handle<void*, cudaIpcCloseMemHandle>;

/// The sender's memory holds a counter of chunks that the receiver has copied out; the receiver's a ring and,
/// behind it, a counter of chunks that have arrived.
class CopyEdge final : public GpuEdge, public CopyEnd, public std::enable_shared_from_this<CopyEdge> {
 public:
  CopyEdge(Device& device, std::string name, EdgeEnd end) : GpuEdge(device, std::move(name), end) {
    const size_t ring = end == EdgeEnd::receiving ? kRing : 0;
    void* memory = nullptr;
    check(cudaMalloc(&memory, ring + kPage), "allocate an edge's memory");
    mine_ = DeviceBytes(memory);
    my_counter_ = static_cast<std::byte*>(memory) + ring;
    // Here, where another kind of edge can still be taken, it shows whether the device has such operations.
    words_.write(stream(), my_counter_, 0);
    words_.wait_until(stream(), my_counter_, 0);
    check(cudaStreamSynchronize(stream()), "clear an edge's counter");
    check(cudaIpcGetMemHandle(&handle_, memory), "share an edge's memory");
  }

  /// Local, like every end of an edge. What this stream waits for is made true, again and again, as the other
  /// end may still be counting: transfers under way end with whatever they hold, so by then the world must
  /// have been aborted.
  ~CopyEdge() override {
    try {
      const cuda::Stream other = cuda::make_urgent_stream();
      while (cudaStreamQuery(stream()) == cudaErrorNotReady) {
        words_.write(other.get(), my_counter_, chunk_ + kChunks);
        std::this_thread::sleep_for(std::chrono::milliseconds(1));
      }
    } catch (const Error& error) {
      log::warning(name() + ": " + error.what());
    }
  }

  std::string offer() const override { return {reinterpret_cast<const char*>(&handle_), sizeof handle_}; }

  bool open(const std::string& offer) override {
    cudaIpcMemHandle_t handle{};
    if (offer.size() != sizeof handle) return false;
    std::memcpy(&handle, offer.data(), sizeof handle);
    void* memory = nullptr;
    if (const cudaError_t status = cudaIpcOpenMemHandle(&memory, handle, cudaIpcMemLazyEnablePeerAccess);
        status != cudaSuccess) {
      cudaGetLastError();  // it must not be found again by the next call
      log::info(name() + ": the other GPU's memory cannot be opened: " + cudaGetErrorString(status));
      return false;
    }
    theirs_ = OpenedBytes(memory);
    their_counter_ = static_cast<std::byte*>(memory) + (end() == EdgeEnd::sending ? kRing : 0);
    return true;
  }

  std::unique_ptr<Sender> connect_sender() override {
    connect();
    return make_gpu_sender(shared_from_this());
  }
  std::unique_ptr<Receiver> connect_receiver() override {
    connect();
    return make_gpu_receiver(shared_from_this());
  }

 private:
  void connect() {
    const Watchdog deadline(kTrialDeadline, [this] {
      return name() + " did not pass a first message within " + std::to_string(kTrialDeadline.count()) +
             " minutes; --gpu-edges nccl goes around it";
    });
    try_out("--gpu-edges nccl goes around it");
  }

  void pass(void* data, size_t bytes) override {
    for (size_t begin = 0; begin < bytes; begin += kChunk, ++chunk_) {
      void* const piece = static_cast<std::byte*>(data) + begin;
      const size_t size = std::min(kChunk, bytes - begin);
      const size_t at = chunk_ % kChunks * kChunk;
      if (end() == EdgeEnd::sending) {
        words_.wait_until(stream(), my_counter_, chunk_ + 1 - kChunks);
        copy(static_cast<std::byte*>(theirs_.get()) + at, piece, size);
      } else {
        words_.wait_until(stream(), my_counter_, chunk_ + 1);
        copy(piece, static_cast<std::byte*>(mine_.get()) + at, size);
      }
      words_.write(stream(), their_counter_, chunk_ + 1);
    }
  }

  void copy(void* to, const void* from, size_t bytes) {
    check(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToDevice, stream()), "copy to another GPU");
  }

  StreamWords words_;
  DeviceBytes mine_;
  OpenedBytes theirs_;
  void* my_counter_ = nullptr;
  void* their_counter_ = nullptr;
  cudaIpcMemHandle_t handle_{};
  uint32_t chunk_ = 0;  // the next one; wraps around, as the counters do
};

}  // namespace

std::shared_ptr<CopyEnd> make_copy_sending_end(World& world, Device& device, int to) {
  return std::make_shared<CopyEdge>(device, gpu_edge_name(world, "copying", world.rank(), to),
                                    EdgeEnd::sending);
}

std::shared_ptr<CopyEnd> make_copy_receiving_end(World& world, Device& device, int from) {
  return std::make_shared<CopyEdge>(device, gpu_edge_name(world, "copying", from, world.rank()),
                                    EdgeEnd::receiving);
}

}  // namespace penstock
