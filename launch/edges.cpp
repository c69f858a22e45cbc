#include "launch/edges.h"

#include <algorithm>
#include <cstdlib>
#include <memory>
#include <string>

#include "launch/agree.h"
#include "runtime/base/log.h"
#include "runtime/comm/cuda_copy_channel.h"
#include "runtime/comm/nccl_channel.h"
#include "runtime/comm/staged_channel.h"

namespace penstock {
namespace {

enum class EdgeKind { host, staged, copy, nccl };

/// Of the edge from rank `from` to the next, before it is known whether the GPUs reach each other.
EdgeKind kind_of(const World& world, const std::vector<DeviceKind>& kinds, GpuEdges wanted, int from) {
  const DeviceKind a = kinds[static_cast<size_t>(from)];
  const DeviceKind b = kinds[static_cast<size_t>(from) + 1];
  if (a == DeviceKind::cpu && b == DeviceKind::cpu) return EdgeKind::host;
  const RankInfo& sender = world.info(from);
  const RankInfo& receiver = world.info(from + 1);
  const bool one_host = sender.host == receiver.host;
  if (a != b || (one_host && sender.pid == receiver.pid)) return EdgeKind::staged;
  return one_host && wanted != GpuEdges::nccl ? EdgeKind::copy : EdgeKind::nccl;
}

/// Element r of the edge from rank r to the next; of the last rank of a pipeline nothing that is used.
std::vector<EdgeKind> kinds_of_edges(const World& world, const Layout& layout,
                                     const std::vector<DeviceKind>& kinds, GpuEdges wanted) {
  std::vector<EdgeKind> edges(kinds.size(), EdgeKind::host);
  for (int rank = 0; rank < world.size(); ++rank)
    if (layout.has_edge_from(rank)) edges[static_cast<size_t>(rank)] = kind_of(world, kinds, wanted, rank);
  return edges;
}

/// What `make` returns; null, and a line in the log, where this GPU's memory cannot be shared.
template <class Make>
std::shared_ptr<CopyEnd> end_if_possible(Make make) {
  try {
    return make();
  } catch (const Error& error) {
    log::info(std::string("GPUs cannot copy to each other: ") + error.what());
    return nullptr;
  }
}

/// This rank's ends of edges that are copied.
struct CopyEnds {
  std::shared_ptr<CopyEnd> in, out;
};

/// Collective. Edges to be copied whose two ends cannot open each other become NCCL's in `edges`.
CopyEnds open_copy_ends(World& world, Device& device, std::vector<EdgeKind>& edges, const Layout& layout) {
  const int rank = world.rank();
  const auto copied = [&](int from) { return edges[static_cast<size_t>(from)] == EdgeKind::copy; };
  const bool copies_in = layout.stage_of(rank) > 0 && copied(rank - 1);
  const auto offer_of = [](const std::shared_ptr<CopyEnd>& end) {
    return end ? end->offer() : std::string();
  };
  CopyEnds ends;
  const std::vector<std::string> from_receivers = agree(world, [&] {
    if (copies_in)
      ends.in = end_if_possible([&] { return make_copy_receiving_end(world, device, rank - 1); });
    return offer_of(ends.in);
  });
  const std::vector<std::string> from_senders = agree(world, [&] {
    if (copied(rank))
      ends.out = end_if_possible([&] { return make_copy_sending_end(world, device, rank + 1); });
    return offer_of(ends.out);
  });
  const std::vector<std::string> receivers = agree(world, [&]() -> std::string {
    return ends.in && ends.in->open(from_senders[static_cast<size_t>(rank) - 1]) ? "open" : "";
  });
  const std::vector<std::string> senders = agree(world, [&]() -> std::string {
    return ends.out && ends.out->open(from_receivers[static_cast<size_t>(rank) + 1]) ? "open" : "";
  });
  for (int from = 0; from < world.size(); ++from)
    if (copied(from) &&
        (senders[static_cast<size_t>(from)].empty() || receivers[static_cast<size_t>(from) + 1].empty()))
      edges[static_cast<size_t>(from)] = EdgeKind::nccl;
  if (!copied(rank)) ends.out.reset();
  if (copies_in && !copied(rank - 1)) ends.in.reset();
  return ends;
}

/// `--gpu-edges copy` takes nothing else between GPUs.
void require_copies(const World& world, const std::vector<DeviceKind>& kinds,
                    const std::vector<EdgeKind>& edges) {
  for (size_t from = 0; from < edges.size(); ++from) {
    if (edges[from] == EdgeKind::staged && kinds[from] == kinds[from + 1])
      throw UsageError(
          "--gpu-edges copy: expected GPUs of different processes, found stages that are threads of one, "
          "which pass hidden states through host memory; start a rank for each GPU with mpirun or srun");
    if (edges[from] == EdgeKind::nccl)
      throw UsageError(
          "--gpu-edges copy: expected GPUs of one host that reach each other's memory, found that those of "
          "rank " +
          std::to_string(from) + " (" + world.info(static_cast<int>(from)).host + ") and rank " +
          std::to_string(from + 1) + " (" + world.info(static_cast<int>(from) + 1).host +
          ") do not; --gpu-edges auto takes NCCL there");
  }
}

void say_what_edges_are(const World& world, const std::vector<EdgeKind>& edges) {
  const auto copied = std::count(edges.begin(), edges.end(), EdgeKind::copy);
  const auto nccl = std::count(edges.begin(), edges.end(), EdgeKind::nccl);
  const auto staged = std::count(edges.begin(), edges.end(), EdgeKind::staged);
  if (world.rank() == 0 && copied + nccl + staged > 0)
    log::info("edges of GPUs: " + std::to_string(copied) + " by their copy engines, " + std::to_string(nccl) +
              " over NCCL, " + std::to_string(staged) + " through host memory");
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
                       const std::vector<DeviceKind>& kinds, bool gpus_are_shared, GpuEdges wanted) {
  const int rank = world.rank();
  const bool first = layout.stage_of(rank) == 0;
  const bool last = !layout.has_edge_from(rank);
  const bool on_gpu = device.kind() == DeviceKind::cuda;
  std::vector<EdgeKind> kinds_of_edge = kinds_of_edges(world, layout, kinds, wanted);
  const CopyEnds copies = open_copy_ends(world, device, kinds_of_edge, layout);
  const std::vector<std::string> ids = agree(world, [&]() -> std::string {  // each made by the sending end
    if (wanted == GpuEdges::copy) require_copies(world, kinds, kinds_of_edge);
    if (last || kinds_of_edge[static_cast<size_t>(rank)] != EdgeKind::nccl) return {};
    if (gpus_are_shared) let_nccl_share_gpus(world);
    return make_nccl_id();
  });
  say_what_edges_are(world, kinds_of_edge);
  RunnerEdges edges;
  agree(world, [&]() -> std::string {
    // First, as it waits for nobody: so no rank's trouble keeps others waiting along the chain.
    if (copies.out) edges.out = copies.out->connect_sender();
    if (!first) {
      switch (kinds_of_edge[static_cast<size_t>(rank) - 1]) {
        case EdgeKind::copy:
          edges.in = copies.in->connect_receiver();
          break;
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
    switch (kinds_of_edge[static_cast<size_t>(rank)]) {
      case EdgeKind::copy:
        break;  // connected above
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
