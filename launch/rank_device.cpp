#include "launch/rank_device.h"

#include <algorithm>
#include <sstream>
#include <string>

#include "launch/agree.h"
#include "launch/placement.h"
#include "runtime/base/log.h"

namespace penstock {

RankDevice open_device(World& world, const std::vector<DeviceKind>& kinds) {
  const auto rank = static_cast<size_t>(world.rank());
  const bool on_gpu = kinds.at(rank) == DeviceKind::cuda;
  const std::vector<std::string> seen = agree(world, [&]() -> std::string {
    std::string ids;
    if (on_gpu)
      for (const std::string& id : cuda_device_ids()) ids += id + "\n";
    return ids;
  });
  std::vector<VisibleGpus> visible;
  for (size_t r = 0; r < seen.size(); ++r) {
    VisibleGpus& gpus = visible.emplace_back(VisibleGpus{world.info(static_cast<int>(r)).host, {}});
    std::istringstream ids(seen[r]);
    for (std::string id; std::getline(ids, id);) gpus.ids.push_back(id);
  }
  const std::vector<int> chosen = choose_gpus(visible);
  const std::vector<int> sharers = sharers_of_gpus(visible, chosen);

  RankDevice mine;
  mine.sharers = std::max(1, sharers[rank]);
  const int most = *std::max_element(sharers.begin(), sharers.end());
  mine.gpus_are_shared = most > 1;
  if (world.rank() == 0 && most > 1)
    log::warning(
        std::to_string(most) +
        " ranks share one GPU: right results, but they take turns and divide its memory; start fewer "
        "ranks, or make more devices visible in CUDA_VISIBLE_DEVICES");
  if (on_gpu) mine.gpu_id = visible[rank].ids[static_cast<size_t>(chosen[rank])];
  agree(world, [&]() -> std::string {
    mine.device = on_gpu ? make_cuda_device(chosen[rank]) : make_cpu_device();
    return {};
  });
  return mine;
}

}  // namespace penstock
