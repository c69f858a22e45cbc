#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <string>

#include "runtime/device/device.h"

namespace penstock {
namespace {

/// The first number in a one-line file such as a cgroup limit; `otherwise` when there is none ("max", no
/// file).
size_t number_in(const char* path, size_t otherwise) {
  std::ifstream file(path);
  size_t value = 0;
  return file >> value ? value : otherwise;
}

/// Of the control group's memory, files that are only cached: the system takes it back when somebody needs
/// it.
size_t cached_files() {
  std::ifstream file("/sys/fs/cgroup/memory.stat");
  size_t cached = 0;
  std::string name;
  for (size_t bytes = 0; file >> name >> bytes;)
    if (name == "active_file" || name == "inactive_file") cached += bytes;
  return cached;
}

size_t available_memory() {
  std::ifstream file("/proc/meminfo");
  std::string name;
  size_t kib = 0;
  std::string unit;
  while (file >> name >> kib && std::getline(file, unit))
    if (name == "MemAvailable:") return kib * 1024;
  return 0;
}

std::string processor_name() {
  std::ifstream file("/proc/cpuinfo");
  for (std::string line; std::getline(file, line);)
    if (line.starts_with("model name")) return line.substr(line.find(':') + 2);
  return "CPU";
}

class CpuDevice final : public Device {
 public:
  DeviceKind kind() const override { return DeviceKind::cpu; }
  std::string name() const override { return processor_name(); }

  MemoryInfo memory() const override {
    const auto physical =
        static_cast<size_t>(sysconf(_SC_PHYS_PAGES)) * static_cast<size_t>(sysconf(_SC_PAGESIZE));
    const size_t limit = number_in("/sys/fs/cgroup/memory.max", physical);
    const size_t charged = number_in("/sys/fs/cgroup/memory.current", 0);
    const size_t used = charged - std::min(charged, cached_files());
    MemoryInfo info{std::min(physical, limit), available_memory()};
    if (limit < physical) info.free = std::min(info.free, limit > used ? limit - used : 0);
    return info;
  }

  DeviceMemory allocate(size_t bytes) override {
    // Weights and KV caches go onto huge pages where the kernel leaves that to programs (Debian does):
    // attention reads 8 KiB here and there, and with 4 KiB pages every piece costs two misses in the page
    // tables.
    constexpr size_t kHugePage = size_t{2} << 20;
    const size_t alignment = bytes >= 2 * kHugePage ? kHugePage : 256;
    const size_t rounded = (bytes + alignment - 1) / alignment * alignment;
    void* p = rounded < bytes ? nullptr : std::aligned_alloc(alignment, rounded);
    if (p != nullptr && alignment == kHugePage) madvise(p, rounded, MADV_HUGEPAGE);
    if (p == nullptr)
      throw OutOfMemory("out of memory: asked for " + std::to_string(bytes >> 20) + " MiB of host memory, " +
                        std::to_string(memory().free >> 20) +
                        " MiB are free; a smaller --kv-cache-memory-bytes or --max-num-batched-tokens helps");
    return {p, std::free};
  }

  // memcpy takes no null pointers, not even for nothing.
  void upload(void* device_to, const void* host_from, size_t bytes) override {
    if (bytes != 0) std::memcpy(device_to, host_from, bytes);
  }
  void download(void* host_to, const void* device_from, size_t bytes) override {
    if (bytes != 0) std::memcpy(host_to, device_from, bytes);
  }
  void synchronize() override {}
  std::unique_ptr<Moment> mark() override { return nullptr; }
  std::unique_ptr<Recording> record(const std::function<void()>&) override { return nullptr; }
  std::optional<MemoryUse> memory_use() const override { return std::nullopt; }
};

}  // namespace

std::unique_ptr<Device> make_cpu_device() {
  return std::make_unique<CpuDevice>();
}

}  // namespace penstock
