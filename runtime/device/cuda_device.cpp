#include "runtime/device/cuda_device.h"

#include <sys/prctl.h>

#include <algorithm>
#include <cstring>

namespace penstock {
namespace {

using cuda::check;

std::string mib(size_t bytes) {
  return std::to_string((bytes + (1 << 20) - 1) >> 20) + " MiB";
}

/// How many GPUs there are, at least one.
int device_count() {
  int count = 0;
  const cudaError_t status = cudaGetDeviceCount(&count);
  if (status != cudaSuccess || count == 0) {
    cudaGetLastError();
    throw UsageError(std::string("--device cuda: this machine has no usable GPU (") +
                     (status == cudaSuccess ? "the driver lists no device" : cudaGetErrorString(status)) +
                     "); run `nvidia-smi` to see what the driver says, or use --device cpu");
  }
  return count;
}

/// Makes `ordinal` the calling thread's device.
void choose(int ordinal) {
  const int count = device_count();
  if (ordinal < 0 || ordinal >= count)
    throw UsageError(
        "--device cuda: expected a GPU number below " + std::to_string(count) + ", found " +
        std::to_string(ordinal) +
        "; start fewer ranks on this host, or make more devices visible in CUDA_VISIBLE_DEVICES");
  check(cudaSetDevice(ordinal), "choose the device");
  check(cudaSetDeviceFlags(cudaDeviceScheduleBlockingSync), "make waits sleep");
  // Waiting for transfers naps for some microseconds at a time; by default Linux may add 50 to each nap.
  prctl(PR_SET_TIMERSLACK, 1000UL);
}

class CudaGraph final : public Recording {
 public:
  CudaGraph(cudaStream_t stream, cudaGraph_t graph) : stream_(stream) {
    cudaGraphExec_t executable = nullptr;
    check(cudaGraphInstantiate(&executable, graph, 0), "make a graph executable");
    executable_ = cuda::GraphExecutable(executable);
  }
  void replay() override { check(cudaGraphLaunch(executable_.get(), stream_), "replay a graph"); }

 private:
  cudaStream_t stream_;
  cuda::GraphExecutable executable_;
};

class MarkedEvent final : public Moment {
 public:
  explicit MarkedEvent(cudaStream_t stream) : event_(cuda::make_event()) {
    check(cudaEventRecord(event_.get(), stream), "mark a moment");
  }
  bool reached() const override {
    const cudaError_t status = cudaEventQuery(event_.get());
    if (status != cudaErrorNotReady) check(status, "what was asked of the device");
    return status == cudaSuccess;
  }

 private:
  cuda::Event event_;
};

void* take(size_t bytes) {
  void* memory = nullptr;
  const cudaError_t status = cudaMalloc(&memory, bytes);
  if (status != cudaErrorMemoryAllocation) check(status, "allocate device memory");
  if (status != cudaSuccess) cudaGetLastError();
  return status == cudaSuccess ? memory : nullptr;
}

}  // namespace

CudaDevice::CudaDevice(int ordinal) : ordinal_(ordinal), pool_(take, [](void* memory) { cudaFree(memory); }) {
  choose(ordinal);
  check(cudaGetDeviceProperties(&properties_, ordinal), "read the device's properties");
  if (properties_.major < 8)
    throw UsageError("--device cuda: expected a GPU of compute capability 8.0 or later (Ampere), found " +
                     std::to_string(properties_.major) + "." + std::to_string(properties_.minor) + ", " +
                     properties_.name);
  stream_ = cuda::make_stream();
  for (Staging& staging : staging_) {
    staging.memory = cuda::make_pinned(kStagingBytes);
    staging.free = cuda::make_event();
  }
}

CudaDevice::~CudaDevice() {
  cudaStreamSynchronize(stream_.get());
}  // staging memory may still be read

std::string CudaDevice::name() const {
  return "cuda:" + std::to_string(ordinal_) + " " + properties_.name;
}

std::string CudaDevice::architecture() const {
  return "sm_" + std::to_string(properties_.major) + std::to_string(properties_.minor);
}

MemoryInfo CudaDevice::memory() const {
  MemoryInfo info;
  check(cudaMemGetInfo(&info.free, &info.total), "read how much memory is free");
  const MemoryUse use = pool_.use();
  info.free += use.reserved - use.in_use;
  return info;
}

DeviceMemory CudaDevice::allocate(size_t bytes) {
  if (void* memory = pool_.allocate(bytes)) return {memory, [this](void* p) { pool_.free(p); }};
  const MemoryInfo info = memory();
  throw OutOfMemory(
      "out of memory on " + name() + ": asked for " + mib(bytes) + ", " + mib(info.free) + " of " +
      mib(info.total) +
      " are free; a smaller --gpu-memory-utilization, --kv-cache-memory-bytes or --max-num-batched-tokens "
      "helps, or more stages");
}

CudaDevice::Staging& CudaDevice::next_staging() {
  Staging& staging = staging_[next_];
  next_ = (next_ + 1) % staging_.size();
  check(cudaEventSynchronize(staging.free.get()), "wait for staging memory");
  return staging;
}

void CudaDevice::upload(void* device_to, const void* host_from, size_t bytes) {
  for (size_t done = 0; done < bytes; done += kStagingBytes) {
    const size_t piece = std::min(kStagingBytes, bytes - done);
    Staging& staging = next_staging();
    std::memcpy(staging.memory.get(), static_cast<const char*>(host_from) + done, piece);
    check(cudaMemcpyAsync(static_cast<char*>(device_to) + done, staging.memory.get(), piece,
                          cudaMemcpyHostToDevice, stream()),
          "copy to the device");
    check(cudaEventRecord(staging.free.get(), stream()), "mark a copy");
  }
}

void CudaDevice::download(void* host_to, const void* device_from, size_t bytes) {
  for (size_t done = 0; done < bytes; done += kStagingBytes) {
    const size_t piece = std::min(kStagingBytes, bytes - done);
    Staging& staging = next_staging();
    check(cudaMemcpyAsync(staging.memory.get(), static_cast<const char*>(device_from) + done, piece,
                          cudaMemcpyDeviceToHost, stream()),
          "copy from the device");
    synchronize();
    std::memcpy(static_cast<char*>(host_to) + done, staging.memory.get(), piece);
  }
}

void CudaDevice::synchronize() {
  check(cudaStreamSynchronize(stream()), "wait for the device");
}

std::unique_ptr<Moment> CudaDevice::mark() {
  return std::make_unique<MarkedEvent>(stream());
}

std::unique_ptr<Recording> CudaDevice::record(const std::function<void()>& ask) {
  check(cudaStreamBeginCapture(stream(), cudaStreamCaptureModeThreadLocal), "begin a graph");
  cudaGraph_t captured = nullptr;
  try {
    ask();
  } catch (...) {  // the stream must leave capture mode whatever happened
    cudaStreamEndCapture(stream(), &captured);
    const cuda::Graph ended(captured);
    throw;
  }
  check(cudaStreamEndCapture(stream(), &captured), "end a graph");
  const cuda::Graph graph(captured);
  return std::make_unique<CudaGraph>(stream(), graph.get());
}

CudaDevice& as_cuda(Device& device) {
  auto* cuda_device = dynamic_cast<CudaDevice*>(&device);
  ensure(cuda_device != nullptr, "CUDA ops are made for a CUDA device");
  return *cuda_device;
}

std::unique_ptr<Device> make_cuda_device(int ordinal) {
  return std::make_unique<CudaDevice>(ordinal);
}

std::vector<std::string> cuda_device_ids() {
  std::vector<std::string> ids;
  for (int i = 0, count = device_count(); i < count; ++i) {
    cudaDeviceProp properties{};
    check(cudaGetDeviceProperties(&properties, i), "read the device's properties");
    std::string id = "GPU-";
    for (int b = 0; b < 16; ++b) {  // as the driver's own tools print it
      constexpr const char* kDigits = "0123456789abcdef";
      const char byte = properties.uuid.bytes[b];
      if (b == 4 || b == 6 || b == 8 || b == 10) id += '-';
      id += kDigits[static_cast<unsigned char>(byte) >> 4];
      id += kDigits[static_cast<unsigned char>(byte) & 15];
    }
    ids.push_back(id);
  }
  return ids;
}

}  // namespace penstock
