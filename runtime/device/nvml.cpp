#include "runtime/device/nvml.h"

#include <dlfcn.h>

namespace penstock {

// The few of nvml.h that are used; its ABI is stable.
struct Nvml::Functions {
  using Device = void*;
  struct Utilization {
    unsigned gpu, memory;  // percent
  };
  struct Memory {
    unsigned long long total, free, used;
  };
  static constexpr int kSuccess = 0;

  ~Functions() {
    if (begun) shutdown();
    if (library != nullptr) dlclose(library);
  }

  template <class Function>
  bool load(Function*& function, const char* name) {
    function = reinterpret_cast<Function*>(dlsym(library, name));
    return function != nullptr;
  }

  void* library = nullptr;
  bool begun = false;
  Device device = nullptr;
  int (*init)() = nullptr;
  int (*shutdown)() = nullptr;
  int (*by_uuid)(const char*, Device*) = nullptr;
  int (*get_utilization)(Device, Utilization*) = nullptr;
  int (*get_memory)(Device, Memory*) = nullptr;
};

Nvml::Nvml() : functions_(std::make_unique<Functions>()) {}
Nvml::~Nvml() = default;

std::unique_ptr<Nvml> Nvml::open(const std::string& uuid, const std::string& library) {
  std::unique_ptr<Nvml> nvml(new Nvml);
  Functions& f = *nvml->functions_;
  f.library = dlopen(library.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (f.library == nullptr || !f.load(f.init, "nvmlInit_v2") || !f.load(f.shutdown, "nvmlShutdown") ||
      !f.load(f.by_uuid, "nvmlDeviceGetHandleByUUID") ||
      !f.load(f.get_utilization, "nvmlDeviceGetUtilizationRates") ||
      !f.load(f.get_memory, "nvmlDeviceGetMemoryInfo"))
    return nullptr;
  f.begun = f.init() == Functions::kSuccess;
  if (!f.begun || f.by_uuid(uuid.c_str(), &f.device) != Functions::kSuccess) return nullptr;
  return nvml;
}

std::optional<double> Nvml::utilization() const {
  Functions::Utilization u{};
  if (functions_->get_utilization(functions_->device, &u) != Functions::kSuccess) return std::nullopt;
  return static_cast<double>(u.gpu) / 100;
}

std::optional<MemoryInfo> Nvml::memory() const {
  Functions::Memory m{};
  if (functions_->get_memory(functions_->device, &m) != Functions::kSuccess) return std::nullopt;
  return MemoryInfo{m.total, m.free};
}

}  // namespace penstock
