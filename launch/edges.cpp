#include "launch/edges.h"

#include <cstdlib>
#include <string>

#include "launch/agree.h"
#include "runtime/comm/nccl_channel.h"
#include "runtime/comm/staged_channel.h"

namespace penstock {
namespace {

enum class EdgeKind { host, nccl, staged };

bool one_process(const World& world, int a, int b) {
  return world.info(a).host == world.info(b).host && world.info(a).pid == world.info(b).pid;
}

/// Of the edge from rank `from` to the next.
EdgeKind kind_of(const World& world, const std::vector<DeviceKind>& kinds, int from) {
  const DeviceKind a = kinds[static_cast<size_t>(from)];
  const DeviceKind b = kinds[static_cast<size_t>(from) + 1];
  if (a == DeviceKind::cpu && b == DeviceKind::cpu) return EdgeKind::host;
  return a == b && !one_process(world, from, from + 1) ? EdgeKind::nccl : EdgeKind::staged;
}

/// NCCL reads these once. What the user has set stays.
void let_nccl_share_gpus(const World& world) {
  const RankInfo& me = world.info(world.rank());
  setenv("NCCL_HOSTID", (me.host + "-" + std::to_string(world.rank())).c_str(), 0);
  if (world.local_size() < world.size()) return;
  setenv("NCCL_SOCKET_IFNAME", "lo", 0);
  setenv("NCCL_IB_DISABLE", "1", 0);
}

}  // namespace

RunnerEdges make_edges(World& world, Device& device, const Layout& layout,
                       const std::vector<DeviceKind>& kinds, bool gpus_are_shared) {
  const int rank = world.rank();
  const bool first = layout.stage_of(rank) == 0;
  const bool last = !layout.has_edge_from(rank);
  const bool on_gpu = device.kind() == DeviceKind::cuda;
  const std::vector<std::string> ids = agree(world, [&]() -> std::string {  // each made by the sending end
    if (last || kind_of(world, kinds, rank) != EdgeKind::nccl) return {};
    if (gpus_are_shared) let_nccl_share_gpus(world);
    return make_nccl_id();
  });
  RunnerEdges edges;
  agree(world, [&]() -> std::string {
    if (!first) {
      switch (kind_of(world, kinds, rank - 1)) {
        case EdgeKind::nccl:
          if (gpus_are_shared) let_nccl_share_gpus(world);
          edges.in = make_nccl_receiver(world, device, ids[static_cast<size_t>(rank) - 1], rank - 1);
          break;
        case EdgeKind::staged:
          edges.in = world.receiver(rank - 1);
          if (on_gpu) edges.in = make_staged_receiver(device, std::move(edges.in));
          break;
        case EdgeKind::host:
          edges.in = world.receiver(rank - 1);
      }
    }
    if (last) return {};
    switch (kind_of(world, kinds, rank)) {
      case EdgeKind::nccl:
        edges.out = make_nccl_sender(world, device, ids[static_cast<size_t>(rank)], rank + 1);
        break;
      case EdgeKind::staged:
        edges.out = world.sender(rank + 1);
        if (on_gpu) edges.out = make_staged_sender(device, std::move(edges.out));
        break;
      case EdgeKind::host:
        edges.out = world.sender(rank + 1);
    }
    return {};
  });
  return edges;
}

}  // namespace penstock
