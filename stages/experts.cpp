#include "stages/experts.h"

#include <chrono>

namespace penstock {
namespace {

// Left to everything else on the host when an expert is read.
constexpr uint64_t kRoomToBreathe = uint64_t{128} << 20;

std::string mebibytes(uint64_t bytes) {
  return std::to_string(bytes >> 20) + " MiB";
}

}  // namespace

Experts::Experts(const BuildContext& context, const MoeConfig& config, std::string prefix)
    : from_(context.matrices()),
      device_(context.device),
      prefix_(std::move(prefix)),
      hidden_(context.config.hidden_size),
      width_(config.intermediate_size),
      on_host_(context.device.kind() == DeviceKind::cpu) {
  const bool lazy = context.spec.experts == ExpertLoading::lazy;
  ensure(!lazy || on_host_, "experts come lazily to a CPU, which sees where rows are routed to");
  const auto count = static_cast<size_t>(config.gate.experts);
  gate_up_.resize(count);
  down_.resize(count);
  gate_up_pointers_.resize(count);
  down_pointers_.resize(count);
  for (int64_t e = 0; e < config.gate.experts; ++e) {
    if (!lazy) {
      read(e);
      continue;
    }
    check_matrix(from_, gate_up_parts(e), hidden_);
    check_matrix(from_, down_parts(e), width_);
  }
  // What one takes in the layout of the back end, padding and scales included: of empty ones where none was
  // read.
  bytes_each_ = lazy ? make_matrix_for(from_, gate_up_parts(0), hidden_)->bytes() +
                           make_matrix_for(from_, down_parts(0), width_)->bytes()
                     : gate_up_[0]->bytes() + down_[0]->bytes();
}

std::vector<WeightPart> Experts::gate_up_parts(int64_t expert) const {
  const std::string name = prefix_ + std::to_string(expert) + ".";
  return {{name + "gate_proj.weight", width_}, {name + "up_proj.weight", width_}};
}

std::vector<WeightPart> Experts::down_parts(int64_t expert) const {
  return {{prefix_ + std::to_string(expert) + ".down_proj.weight", hidden_}};
}

void Experts::read(int64_t expert) {
  const auto e = static_cast<size_t>(expert);
  auto gate_up = load_matrix(from_, gate_up_parts(expert), hidden_);
  down_[e] = load_matrix(from_, down_parts(expert), width_);
  gate_up_[e] = std::move(gate_up);
  gate_up_pointers_[e] = gate_up_[e].get();
  down_pointers_[e] = down_[e].get();
  held_.fetch_add(1, std::memory_order_relaxed);
}

void Experts::prepare(const RoutingView& routing) {
  if (!on_host_) return;
  uint64_t hits = 0;
  missing_.clear();
  routing.for_each_expert([&](int64_t e, int64_t, int64_t) {
    ++hits;
    if (gate_up_[static_cast<size_t>(e)] == nullptr) missing_.push_back(e);
  });
  hits_.fetch_add(hits, std::memory_order_relaxed);
  if (!missing_.empty()) read_missing();
}

void Experts::read_missing() {
  const auto begin = std::chrono::steady_clock::now();
  require_memory();
  for (const int64_t e : missing_) {
    announce_matrix(from_, gate_up_parts(e));
    announce_matrix(from_, down_parts(e));
  }
  for (const int64_t e : missing_) read(e);
  read_ns_.fetch_add(std::chrono::nanoseconds(std::chrono::steady_clock::now() - begin).count(),
                     std::memory_order_relaxed);
}

void Experts::require_memory() const {
  const uint64_t needed = missing_.size() * bytes_each_;
  const uint64_t free = device_.memory().free;
  if (free >= needed + kRoomToBreathe) return;
  throw Error(prefix_ + "*: rows are routed to " + std::to_string(missing_.size()) +
              " more experts: expected " + mebibytes(needed + kRoomToBreathe) +
              " of free memory on this host, found " + mebibytes(free) +
              "; fewer kinds of rows, more hosts, or a smaller --kv-cache-memory-bytes leave room for them");
}

ExpertUse Experts::use() const {
  ExpertUse use;
  use.experts = gate_up_.size();
  use.held = held_.load(std::memory_order_relaxed);
  use.bytes = use.experts * bytes_each_;
  use.held_bytes = use.held * bytes_each_;
  use.hit_bytes = hits_.load(std::memory_order_relaxed) * bytes_each_;
  use.read_seconds = 1e-9 * static_cast<double>(read_ns_.load(std::memory_order_relaxed));
  return use;
}

}  // namespace penstock
