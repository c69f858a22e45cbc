#include "launch/placement.h"

#include <algorithm>
#include <functional>
#include <map>
#include <sstream>
#include <utility>

#include "runtime/base/error.h"

namespace penstock {
namespace {

std::vector<std::string> parts_of(const std::string& flag) {
  std::vector<std::string> parts;
  std::istringstream text(flag + ",");
  for (std::string part; std::getline(text, part, ',');) parts.push_back(part);
  return parts;
}

template <class T>
bool all_alike(const std::vector<T>& things) {
  return std::adjacent_find(things.begin(), things.end(), std::not_equal_to<>()) == things.end();
}

using Gpu = std::pair<std::string, std::string>;  // host and id

Gpu gpu_of(const VisibleGpus& visible, int ordinal) {
  return {visible.host, visible.ids.at(static_cast<size_t>(ordinal))};
}

}  // namespace

std::vector<DeviceKind> parse_devices(const std::string& flag, const Partition& partition) {
  const std::vector<std::string> parts = parts_of(flag);
  if (parts.size() != 1 && parts.size() != partition.size())
    throw UsageError("--device: expected one device, or one for each of " + std::to_string(partition.size()) +
                     " stages, found '" + flag + "'");
  std::vector<DeviceKind> kinds;
  for (size_t s = 0; s < partition.size(); ++s) {
    const std::string& part = parts[parts.size() == 1 ? 0 : s];
    if (part != "cpu" && part != "cuda")
      throw UsageError(
          "--device: expected cpu or cuda, or one of them for each stage as in cpu,cuda,cuda, found '" +
          flag + "'");
    const bool embedding_alone = partition[s].halves == 0 && !partition[s].head;
    const bool gpu = part == "cuda" && !(parts.size() == 1 && embedding_alone);
    kinds.push_back(gpu ? DeviceKind::cuda : DeviceKind::cpu);
  }
  return kinds;
}

bool any_gpu(const std::vector<DeviceKind>& kinds) {
  return std::find(kinds.begin(), kinds.end(), DeviceKind::cuda) != kinds.end();
}

bool devices_are_alike(const std::vector<DeviceKind>& kinds) {
  return all_alike(kinds);
}

std::vector<double> slowness_of_devices(const std::string& flag) {
  constexpr double kCpuOverGpu = 300;  // roughly, in bfloat16: a CPU beside GPUs gets the embedding alone
  const std::vector<std::string> parts = parts_of(flag);
  std::vector<double> slowness;
  for (const std::string& part : parts) slowness.push_back(part == "cpu" ? kCpuOverGpu : 1);
  return all_alike(parts) ? std::vector<double>{} : slowness;
}

bool names_gpu(const std::string& flag) {
  for (const std::string& part : parts_of(flag))
    if (part == "cuda") return true;
  return false;
}

std::vector<int> choose_gpus(const std::vector<VisibleGpus>& visible) {
  std::map<Gpu, int> taken;
  std::vector<int> chosen;
  for (const VisibleGpus& rank : visible) {
    int best = -1;
    for (int i = 0; i < static_cast<int>(rank.ids.size()); ++i)
      if (best < 0 || taken[gpu_of(rank, i)] < taken[gpu_of(rank, best)]) best = i;
    if (best >= 0) ++taken[gpu_of(rank, best)];
    chosen.push_back(best);
  }
  return chosen;
}

std::vector<int> sharers_of_gpus(const std::vector<VisibleGpus>& visible, const std::vector<int>& chosen) {
  std::map<Gpu, int> taken;
  for (size_t r = 0; r < visible.size(); ++r)
    if (chosen[r] >= 0) ++taken[gpu_of(visible[r], chosen[r])];
  std::vector<int> sharers;
  for (size_t r = 0; r < visible.size(); ++r)
    sharers.push_back(chosen[r] < 0 ? 0 : taken[gpu_of(visible[r], chosen[r])]);
  return sharers;
}

}  // namespace penstock
