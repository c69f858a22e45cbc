// For tests of the runner: a device whose memory is the host's, so that only its time (mark) is its own, and
// a stage without weights.
#pragma once

#include "runtime/device/device.h"
#include "runtime/pipeline/stage.h"

namespace penstock::test {

class HostBackedDevice : public Device {
 public:
  DeviceKind kind() const override { return host_->kind(); }
  std::string name() const override { return "pretended"; }
  MemoryInfo memory() const override { return host_->memory(); }
  DeviceMemory allocate(size_t bytes) override { return host_->allocate(bytes); }
  void upload(void* to, const void* from, size_t bytes) override { host_->upload(to, from, bytes); }
  void download(void* to, const void* from, size_t bytes) override { host_->download(to, from, bytes); }
  void synchronize() override {}
  std::unique_ptr<Recording> record(const std::function<void()>&) override { return nullptr; }
  std::optional<MemoryUse> memory_use() const override { return std::nullopt; }

 private:
  std::unique_ptr<Device> host_ = make_cpu_device();
};

/// A stage without weights or cache; what it does is left to start().
class EmptyStage : public Stage {
 public:
  EmptyStage(bool first, bool last, int64_t hidden_size)
      : first_(first), last_(last), hidden_size_(hidden_size) {}
  int64_t hidden_size() const override { return hidden_size_; }
  bool is_first() const override { return first_; }
  bool is_last() const override { return last_; }
  size_t weight_bytes() const override { return 0; }
  size_t kv_bytes_per_block() const override { return 0; }
  void allocate_cache(int64_t) override {}
  void allocate_full_precision_cache(int64_t) override {}
  CacheRounding take_cache_rounding() override { return {}; }

 private:
  bool first_, last_;
  int64_t hidden_size_;
};

}  // namespace penstock::test
