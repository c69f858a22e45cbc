// Owners of CUDA things. They move, destroy silently (a destructor has no one to tell) and are never static:
// the driver may be gone when static objects die. Each belongs to the device that was current when it was
// made.
#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>
#include <string>
#include <utility>

#include "runtime/base/error.h"

namespace penstock::cuda {

/// Throws Error "what: the driver's words" unless `status` is success.
inline void check(cudaError_t status, const char* what, Where where = Where::here()) {
  if (status == cudaSuccess) return;
  cudaGetLastError();  // an error that does not stick must not be found again by the next call
  throw Error(std::string("CUDA: ") + what + ": " + cudaGetErrorString(status) + " (" +
                  cudaGetErrorName(status) + ")",
              ExitStatus::runtime_failure, where);
}

/// A handle with the function that ends it.
template <class T, cudaError_t (*kDestroy)(T)>
class Handle {
 public:
  Handle() = default;
  explicit Handle(T value) : value_(value) {}
  Handle(Handle&& other) noexcept : value_(std::exchange(other.value_, nullptr)) {}
  Handle& operator=(Handle&& other) noexcept {
    std::swap(value_, other.value_);
    return *this;
  }
  ~Handle() {
    if (value_ != nullptr) kDestroy(value_);
  }
  T get() const { return value_; }

 private:
  T value_ = nullptr;
};

using Stream = Handle<cudaStream_t, cudaStreamDestroy>;
using Event = Handle<cudaEvent_t, cudaEventDestroy>;
using PinnedMemory = Handle<void*, cudaFreeHost>;
using Graph = Handle<cudaGraph_t, cudaGraphDestroy>;
using GraphExecutable = Handle<cudaGraphExec_t, cudaGraphExecDestroy>;

inline Stream make_stream() {
  cudaStream_t stream = nullptr;
  check(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), "make a stream");
  return Stream(stream);
}

/// Its kernels are the first to get what becomes free of the device.
inline Stream make_urgent_stream() {
  int least = 0, greatest = 0;
  check(cudaDeviceGetStreamPriorityRange(&least, &greatest), "read the streams' priorities");
  cudaStream_t stream = nullptr;
  check(cudaStreamCreateWithPriority(&stream, cudaStreamNonBlocking, greatest), "make a stream");
  return Stream(stream);
}

/// An event for ordering, or, with cudaEventDefault, for timing.
inline Event make_event(unsigned flags = cudaEventDisableTiming) {
  cudaEvent_t event = nullptr;
  check(cudaEventCreateWithFlags(&event, flags), "make an event");
  return Event(event);
}

inline PinnedMemory make_pinned(size_t bytes) {
  void* p = nullptr;
  check(cudaMallocHost(&p, bytes), "allocate pinned host memory");
  return PinnedMemory(p);
}

}  // namespace penstock::cuda
