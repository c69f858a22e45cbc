#include "launch/bench_edges.h"

#include <chrono>
#include <string>

#include "launch/agree.h"

namespace penstock {
namespace {

constexpr int64_t kMessage = int64_t{32} << 20;
constexpr int kMessages = 8;

}  // namespace

std::vector<double> edge_rates(World& world, Device& device, const Layout& layout, RunnerEdges& edges) {
  using Clock = std::chrono::steady_clock;
  std::vector<double> rates(static_cast<size_t>(world.size()), 0);
  if (layout.stages == 1) return rates;
  const Tensor tensor = device.tensor(DType::i32, {kMessage / 4});
  const Bytes message{tensor.view.as<std::byte>(), static_cast<size_t>(kMessage)};
  for (int to = 1; to < world.size(); ++to) {
    if (layout.stage_of(to) == 0) continue;
    const std::vector<std::string> all = agree(world, [&]() -> std::string {
      Clock::time_point begin;
      for (int i = 0; i <= kMessages; ++i) {  // the first one finds both ends ready
        if (world.rank() + 1 == to) edges.out->send(message)->wait();
        if (world.rank() == to) edges.in->receive(message)->wait();
        if (i == 0) begin = Clock::now();
      }
      device.synchronize();
      const double seconds = std::chrono::duration<double>(Clock::now() - begin).count();
      return std::to_string(static_cast<double>(kMessage) * kMessages / seconds);
    });
    rates[static_cast<size_t>(to)] = std::stod(all[static_cast<size_t>(to)]);
  }
  return rates;
}

}  // namespace penstock
