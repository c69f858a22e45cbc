// What the edges between GPUs of different processes have in common: a stream of their own, so that transfers
// run beside the forward, and an end of each transfer that the host can ask for. How a message passes is the
// derived class's (cuda_copy_channel.cpp, nccl_channel.cpp).
//
// A send starts when the work that was asked of the device before it is done. A receive starts at once:
// behind forwards that were asked for ahead it would end when there is none left to hide it.
#pragma once

#include <memory>
#include <string>

#include "runtime/comm/channel.h"
#include "runtime/comm/world.h"
#include "runtime/device/cuda_device.h"

namespace penstock {

enum class EdgeEnd { sending, receiving };

class GpuEdge {
 public:
  virtual ~GpuEdge() = default;
  GpuEdge(const GpuEdge&) = delete;
  GpuEdge& operator=(const GpuEdge&) = delete;

  /// Starts the next transfer, and marks its end.
  void start(void* data, size_t bytes, cudaEvent_t end);
  bool reached(cudaEvent_t end) const;
  /// Later work of the device comes behind what was marked.
  void order_behind(cudaEvent_t end);

 protected:
  /// `name` is for messages: "the NCCL edge from rank 0 (a) to rank 1 (b)".
  GpuEdge(Device& device, std::string name, EdgeEnd end);
  /// Puts the next message of the edge into stream().
  virtual void pass(void* data, size_t bytes) = 0;

  /// A first message passes, on both ends, and must arrive whole. `remedy` ends the Error thrown if it does
  /// not.
  void try_out(const char* remedy);

  CudaDevice& device() { return device_; }
  cudaStream_t stream() const { return stream_.get(); }
  const std::string& name() const { return name_; }
  EdgeEnd end() const { return end_; }

 private:
  CudaDevice& device_;
  std::string name_;
  EdgeEnd end_;
  cuda::Stream stream_;
  cuda::Event device_so_far_;
};

/// "the NCCL edge from rank 0 (a) to rank 1 (b)".
std::string gpu_edge_name(const World& world, const char* kind, int from, int to);

std::unique_ptr<Sender> make_gpu_sender(std::shared_ptr<GpuEdge> edge);
std::unique_ptr<Receiver> make_gpu_receiver(std::shared_ptr<GpuEdge> edge);

}  // namespace penstock
